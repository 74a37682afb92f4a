"""Reading configurations: layers, YAML as people mean it, and all mistakes at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.problems import refuses, refuses_with

from fedlens.build.load import load
from fedlens.config.blocks import MODEL, SCHEME, STRATEGY, build_block
from fedlens.config.load import dump
from fedlens.config.overrides import override_layer, quoted
from fedlens.config.schema import Config
from fedlens.errors import Code, ConfigError
from fedlens.strategies.base import strategies
from fedlens.strategies.fedprox import FedProx


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_no_file_and_no_network():
    assert load().model.pretrained is False


def test_later_layers_win(tmp_path):
    path = write(tmp_path, "federated: {num_rounds: 3, batch_size: 8, local_epochs: 4}\n")
    config = load(path, ["federated.num_rounds=5"], {"federated.num_rounds": 4, "federated": {"batch_size": 16}})
    assert (config.federated.num_rounds, config.federated.batch_size, config.federated.local_epochs) == (5, 16, 4)


def test_overrides_reach_the_parameters_of_blocks():
    config = load(None, ["strategy.mu=0.5", "strategy.name=fedprox", "data.partition={scheme: dirichlet, alpha: 0.3}"])
    assert STRATEGY.choose(config.strategy) == FedProx(mu=0.5)
    assert config.data.partition.parameters["alpha"] == 0.3


def test_defaults_of_the_block_are_filled_in():
    assert load(None, ["strategy.name=fedprox"]).strategy.parameters == {"mu": 0.01}


def test_naming_another_block_drops_the_parameters_of_the_one_before(tmp_path):
    path = write(tmp_path, "strategy: {name: fedadam, beta1: 0.5}\n")
    assert load(path, ["strategy.name=fedprox"]).strategy.parameters == {"mu": 0.01}
    assert load(path, ["strategy.name=fedadam"]).strategy.parameters["beta1"] == 0.5


def test_timm_architectures_are_models():
    builder = MODEL.choose(load(None, ["model.name=timm:resnet10t"]).model)
    assert builder.architecture == "resnet10t"  # type: ignore[attr-defined]


def test_a_source_with_a_path_gets_data_path(tmp_path):
    assert "path" not in load(None, ["data.source=imagefolder", f"data.path={tmp_path}"]).data.parameters


def test_an_empty_section_means_its_defaults(tmp_path):
    assert load(write(tmp_path, "federated:\nmodel:\n")) == load()
    assert load(write(tmp_path, "# nothing\n")) == load()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1e-3", 0.001), ("1E2", 100.0), (".5", 0.5), ("010", 10), ("1_000", 1000), ("2.", 2.0)],
)
def test_numbers_as_people_write_them(tmp_path, text, expected):
    assert load(write(tmp_path, f"optimizer:\n  lr: {text}\n")).optimizer.lr == expected
    assert load(None, [f"optimizer.lr={text}"]).optimizer.lr == expected


@pytest.mark.parametrize(("text", "expected"), [("yes", True), ("no", False), ("on", True), ("True", True)])
def test_yes_and_no_still_work_as_truth_values(text, expected):
    assert load(None, [f"model.pretrained={text}"]).model.pretrained is expected


@pytest.mark.parametrize("text", ["no", "2024-01-01", "1:30", "1e3", "null", "007", "~", "yes", "a: b", "'x'"])
def test_dump_reads_back_as_the_same(tmp_path, text):
    config = load(None, ["strategy.name=fedyogi", "data.partition.scheme=dirichlet"], {"tracking.name": text})
    assert config.tracking.name == text
    assert load(write(tmp_path, dump(config))) == config


def test_dump_of_the_defaults_and_of_timm_reads_back(tmp_path):
    for config in (load(), load(None, ["model.name=timm:resnet10t", f"data.path={tmp_path}", "model.weights=w.pth"])):
        assert load(write(tmp_path, dump(config))) == config


def test_all_mistakes_come_together_with_their_places(tmp_path):
    path = write(tmp_path, "federated:\n  num_round: 3\nstrategy:\n  name: fedprx\nmodel:\n  pretrained: perhaps\n")
    with refuses(
        ("unknown_key", "federated.num_round"),
        ("unknown_name", "strategy.name"),
        ("wrong_type", "model.pretrained"),
        ("out_of_range", "federated.fraction_fit"),
        ("syntax", "bogus"),
    ) as caught:
        load(path, ("federated.fraction_fit=1.5", "bogus"))
    lines = str(caught.value).splitlines()
    assert f"model.pretrained = 'perhaps': must be true or false ({path}, line 6)" in lines
    assert "'bogus': must be key.sub=value (command line)" in lines


@pytest.mark.parametrize(
    ("value", "code"),
    [
        *((value, "out_of_range") for value in ("0", "1.5", "-0.1", ".nan", ".inf")),
        *((value, "wrong_type") for value in ("true", "many", "")),
    ],
)
def test_fraction_fit_outside_its_range(value: str, code: Code) -> None:
    with refuses((code, "federated.fraction_fit")) as caught:
        load(None, [f"federated.fraction_fit={value}"])
    assert "must be a number above 0 and at most 1 (command line)" in str(caught.value)


SOME_TEXTS = "model.name=fusion data.modalities.text_only=0.2"

MISTAKES = [
    # names, and what is probably meant
    ("unknown_name", "model.name=mobilnetv3", "unknown model. Did you mean mobilenetv3? Known: "),
    ("unknown_name", "model.name=ResNet50", "Did you mean resnet50?"),
    ("unknown_name", "model.name=timm:resnett10", "did you mean"),
    ("unknown_name", "strategy.name=FedAvg", "unknown strategy. Did you mean fedavg?"),
    ("unknown_name", "strategy.name=fedper", "is a personalization: personalization.name=fedper (command line)"),
    ("unknown_name", "personalization.name=fedpr", "Did you mean fedper?"),
    ("unknown_name", "schedule.name=fedbuf", "unknown schedule. Did you mean fedbuff?"),
    ("unknown_name", "attack.name=label_flp", "unknown attack. Did you mean label_flip?"),
    ("unknown_name", "optimizer.name=adam", "unknown optimizer. Did you mean adamw? Known: adamw, sgd"),
    ("unknown_name", "data.source=smaple", "unknown data source. Did you mean sample?"),
    ("unknown_name", "data.partition.scheme=dirichet", "unknown partition scheme. Did you mean dirichlet?"),
    # keys, and what is probably meant
    ("unknown_key", "lr=0.1", "lr = 0.1: unknown key. Did you mean optimizer.lr? Known here: model, "),
    ("unknown_key", "federated.lr=0.1", "Did you mean optimizer.lr?"),
    ("unknown_key", "federated.fraction=1", "Did you mean federated.fraction_fit or attack.fraction?"),
    ("unknown_key", "federated.alpha=0.1", "Did you mean model.lora.alpha or data.partition.alpha or strategy.alpha?"),
    ("unknown_key", "optimizer.learning_rate=0.1", "Did you mean optimizer.lr?"),
    ("unknown_key", "num_clients=3", "Did you mean data.partition.clients?"),
    ("unknown_key", "federated.num-rounds=3", "Did you mean federated.num_rounds?"),
    ("unknown_key", "strategy.nam=fedavg", "Did you mean strategy.name?"),
    ("unknown_key", "strategy.name=fedadam strategy.beta=1", "Did you mean strategy.beta1"),
    ("unknown_key", "data.bogus=1", "data.bogus = 1: unknown key."),
    ("unknown_key", "strategy.mu=1", "fedavg has no such key, it is one of fednova, fedproto, fedprox, moon. Known"),
    ("unknown_key", "personalization.name=fedper personalization.lam=1", "fedper has no such key, it is one of ditto"),
    ("unknown_key", "clock.name=half_normal clock.sigma=1", "half_normal has no such key, it is one of lognormal"),
    ("unknown_key", "data.source=manifest data.path=x data.columns.pth=a", "no such key; known: path, label, client"),
    ("idle_key", "data.partition.alpha=1", "choose data.partition.scheme=dirichlet"),
    # values
        ("unknown_choice", "data.augment=None", "(did you mean none?)"),
    ("unknown_choice", "schedule.name=fedasync schedule.staleness=linear", "must be one of constant, hinge, poly"),
    ("out_of_range", "federated.num_rounds=0", "must be a whole number from 1 to 1,000,000"),
    ("wrong_type", "federated.num_rounds=2.5", "must be a whole number from 1 to 1,000,000"),
    ("wrong_type", "model.num_classes=true", "must be a whole number from 1 to 10,000,000 or null"),
    ("invalid_value", "runtime.device=gpu", "auto, cpu, cuda"),
    ("out_of_range", "seed=-1", "must be a whole number from 0 to 9,223,372,036,854,775,807"),
    ("out_of_range", f"seed={10**19}", f"seed = {10**19}: must be a whole number from 0 to 9,223"),
    ("syntax", f"seed={'9' * 5_000}", "a number of 5,000 digits"),
    ("out_of_range", "model.freeze=0", "whole number from 1 to 10,000"),
    ("out_of_range", "transfer.layer_decay=2.6", "at most 1"),
    ("wrong_type", "plugins=mine.py", "must be a list, each item a path"),
    ("wrong_type", "federated=3", "federated = 3: must be a section of keys"),
    ("wrong_type", "strategy=fedprox", "must be a section of keys. Did you mean strategy.name?"),
    ("missing", "data.path=", "is empty, as with a variable that is not set"),
    ("missing", "tracking.name=", "is empty, as with a variable that is not set"),
    ("missing", "model.name=", "is empty, as with a variable that is not set"),
    ("syntax", "plugins=@here", "put it in quotes"),
    ("invalid_value", "data.path=~nobody-here/x", "the home folder ~nobody-here is not known; give the whole path"),
    # values of blocks
    ("out_of_range", "strategy.name=fedprox strategy.mu=-1", "strategy.mu = -1: must be a number of at least 0 (comm"),
    ("wrong_type", "strategy.name=fedprox strategy.mu=true", "strategy.mu = true: must be a number"),
    ("out_of_range", "strategy.name=feddyn strategy.alpha=0", "above 0"),
    ("out_of_range", "strategy.name=qfedavg strategy.q=-1", "at least 0"),
    ("out_of_range", "strategy.name=moon strategy.temperature=0", "above 0"),
    ("out_of_range", "personalization.name=ditto personalization.lam=-1", "of at least 0"),
    ("out_of_range", "personalization.name=fedala personalization.sample=2", "at most 1"),
    ("out_of_range", "aggregation.name=trimmed_mean aggregation.beta=0.5", "at least 0 and below 0.5"),
    ("out_of_range", "attack.name=label_flip attack.fraction=1", "must be a number of at least 0 and below 1"),
    ("out_of_range", "attack.name=gaussian attack.std=1e39", "at most 1e+06"),
    ("out_of_range", "schedule.name=fedbuff schedule.max_staleness=0", "1 to 1,000,000 or null"),
    ("out_of_range", "clock.name=half_normal clock.dropout=1", "at least 0 and below 1"),
    ("out_of_range", "clock.name=lognormal clock.sigma=1000", "from 0 to 20"),
    # keys that exclude each other
    ("contradiction", "runtime.device=cpu memory.precision=fp16", "needs a GPU, but runtime.device is cpu"),
    ("contradiction", "data.client_test=0.5 data.validation=0.5", "leaves no images to train on"),
    ("contradiction", "model.lora.rank=4 model.freeze=2", "trains adapters in it; use model.freeze=none"),
    ("contradiction", "transfer.unfreeze_every=1 transfer.probe_rounds=2", "begins with the head by itself; use one"),
    ("contradiction", "privacy.mode=example data.partition.scheme=overlapping", "here several clients tell of it; use"),
    ("contradiction", f"{SOME_TEXTS} data.partition.scheme=overlapping", "here others hold the same rows; use another"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "overrides", "words"), MISTAKES, ids=[row[1][:60] for row in MISTAKES])
def test_one_mistake_one_line(code: Code, overrides: str, words: str) -> None:
    with refuses((code, overrides.rpartition(" ")[2].partition("=")[0])) as caught:
        load(None, overrides.split())
    assert words in str(caught.value)


def test_a_required_key_that_is_not_there() -> None:
    for key, choice in (("clock.path", "clock.name=trace"), ("data.path", "data.source=imagefolder")):
        with refuses(("missing", key)) as caught:
            load(None, [choice])
        assert f"{key}: is missing; {choice.partition('=')[2]} needs it (command line)" == str(caught.value)


def test_what_is_no_override() -> None:
    for text in ("federated..num_rounds=1", "bogus", "=1"):
        with refuses(("syntax", text)) as caught:
            load(None, [text])
        assert str(caught.value) == f"{text!r}: must be key.sub=value (command line)"


def test_a_misspelt_section_says_where_it_stands(tmp_path):
    path = write(tmp_path, "seed: 1\nfederatd:\n  num_rounds: 3\n")
    for file, overrides, place in ((None, ["federatd.num_rounds=3"], "command line"), (path, [], f"{path}, line 2")):
        with refuses_with("unknown_key", "federatd: unknown key. Did you mean federated?") as caught:
            load(file, overrides)
        assert str(caught.value).endswith(f"({place})")
    with refuses(("unknown_key", "data.partitoin")) as caught:
        load(write(tmp_path, "data:\n  source: sample\n"), ["data.partitoin.clients=3"])
    assert str(caught.value).endswith("(command line)")


def test_a_key_below_a_value():
    with refuses(("wrong_type", "strategy.mu"), ("wrong_type", "strategy")) as caught:
        load(None, ["strategy=fedprox", "strategy.mu=1"])
    assert "strategy.mu = 1: strategy is set to a value, so it has no keys below it (command line)" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2\n", "line 2, column 2: is not YAML"),
        ("model:\n\tname: x\n", "line 2, column 1: is not YAML"),
        ("seed: 1\nmodel: {}\nseed: 2\n", "line 3: seed is given twice (first in line 1)"),
        ("model:\n  name: cnn\n  name: lenet\n", "line 3: model.name is given twice"),
        ("- a\n", "must hold sections such as `model:`, but holds a list"),
        ("hello\n", "must hold sections"),
        ("model: !!python/object/apply:os.system [ls]\n", "is not YAML"),
        ("model: &m {inner: *m}\n", "refers to itself"),
    ],
)
def test_broken_files(tmp_path, text, expected):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.code in ("syntax", "duplicate", "wrong_type")
    assert problem.line.startswith(str(path))
    assert expected in problem.line


def test_a_missing_file_names_its_neighbours(tmp_path):
    path, missing = write(tmp_path, ""), tmp_path / "confg.yaml"
    with refuses(("not_found", str(missing))) as caught:
        load(missing)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_text(tmp_path):
    with refuses_with("unreadable", f"{tmp_path}: is a folder; give the configuration file itself"):
        load(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_bytes(b"model: \xff\n")
    with refuses_with("unreadable", f"{path}: is not UTF-8 text"):
        load(path)


def test_merge_keys_and_anchors_work(tmp_path):
    text = "optimizer: &o {lr: 0.2, momentum: 0.5}\n"
    path = write(tmp_path, text + "federated: {<<: {num_rounds: 7}, batch_size: 4}\n")
    assert load(path).federated.num_rounds == 7


def test_build_block_names_the_key():
    assert build_block(strategies, "strategy", "fedprox", {"mu": 2}) == FedProx(mu=2.0)
    with refuses(("unknown_name", "strategy.name")):
        build_block(strategies, "strategy", "fedprx", {})


def test_choose_works_on_a_configuration_made_in_python():
    section = Config.model_validate({"data": {"partition": {"scheme": "dirichlet", "alpha": 0.7}}}).data.partition
    assert SCHEME.choose(section).alpha == 0.7  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["resnet50", "3", "true", "a: b", "", "#a", "1e-3", "null", "[x", "x y", '"'])
def test_a_quoted_text_is_read_as_itself(text: str) -> None:
    layer = override_layer([f"tracking.name={quoted(text)}"], [], lambda _: True)
    assert layer.tree["tracking"]["name"] == text


@pytest.mark.parametrize(
    "text", ["pics #2", "2024_05", "1e3", "a: b", "007", "no", "~", " x", "@here", "[x", "it's", "a,b"]
)
def test_a_path_or_a_text_is_taken_as_typed(text: str) -> None:
    config = load(None, [f"data.path={text}", f"tracking.name={text}"])
    assert (str(config.data.path), config.tracking.name) == (text, text)


def test_null_and_quotes_around_the_whole_of_a_text() -> None:
    config = load(None, ["data.path=null", "tracking.name='null'"])
    assert (config.data.path, config.tracking.name) == (None, "null")
