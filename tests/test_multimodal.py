"""Runs on rows that have an image, a text or both."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.photos import photo
from tests.problems import refuses
from typer.testing import CliRunner

import fedlens
from fedlens.build.experiment import build_experiment
from fedlens.build.load import load
from fedlens.build.measures import modality_measure
from fedlens.cli.main import app
from fedlens.core.files import read_json
from fedlens.data.images import read
from fedlens.errors import ConfigError, DataError, ModelError
from fedlens.inference.predict import Predictor
from fedlens.models.base import ModelRequest, Recognizer, beside_texts
from fedlens.models.build import build_model
from fedlens.models.lenet import LeNet
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.observer import Silent
from fedlens.tracking.result import result_lines
from fedlens.tracking.run_dir import RunDir

SECRET = "zebrafish"
"""Stands in every text, and must not stand anywhere else."""

WORDS = ("ceramic handle coffee", "steel prongs dinner", "round flat porcelain")
SETTINGS = (
    "model.name=fusion",
    "model.width=16",
    "model.max_tokens=8",
    "data.image_size=20",
    "data.test=0.25",
    "federated.num_rounds=4",
    "federated.batch_size=8",
    "federated.local_epochs=4",
    "optimizer.lr=0.02",
    "runtime.workers=1",
    "tracking.tensorboard=false",
    "tracking.pictures=false",
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table"))


def write_table(folder: Path) -> Path:
    """Five clients with 24 rows: `pictures` has no texts, `words` no images; the others have both."""
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["path", "label", "client", "text"])
        for owner, client in enumerate(("both1", "both2", "both3", "pictures", "words")):
            for number in range(24):
                kind = number % 3
                name = f"{client}-{number}.png"
                photo(folder / name, kind, 100 * owner + number, 20)
                text = f"{SECRET} {WORDS[kind]}"
                path = "" if client == "words" else name
                out.writerow([path, ("cup", "fork", "plate")[kind], client, "" if client == "pictures" else text])
    return folder / "rows.csv"


def settings(table: Path, tmp_path: Path, *more: str) -> list[str]:
    return [*SETTINGS, f"data.path={table}", f"data.cache_dir={tmp_path / 'cache'}", f"tracking.dir={tmp_path}", *more]


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> fedlens.Run:
    return fedlens.run(None, *settings(table, tmp_path_factory.mktemp("runs")), show=False)


def measures(run: fedlens.Run) -> list[dict[str, float]]:
    return [line["measures"] for line in read_metrics(run.folder / "metrics.jsonl")]


def test_it_recognises_by_either_and_by_both(table: Path, tmp_path: Path) -> None:
    suits_transformers = ("optimizer.name=adamw", "optimizer.lr=0.005", "tracking.report=false")
    last = measures(fedlens.run(None, *settings(table, tmp_path, *suits_transformers), show=False))[-1]
    assert min(last["modality/both"], last["modality/image_only"], last["modality/text_only"]) > 0.9


def test_what_is_counted_are_rows(run: fedlens.Run) -> None:
    shown = "\n".join(result_lines(read_metrics(run.folder / "metrics.jsonl"), RunDir(run.folder)).values())
    assert re.search(r"\d+ rows; chance", shown)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Test rows: lines are the truth" in page
    assert "training rows" in page
    assert not re.search(r"(\d|own|global|validation) (test )?images(?! read)", page.partition("<main>")[2])


def test_each_view_of_the_complete_test_rows_by_hand(table: Path, tmp_path: Path) -> None:
    config = load(None, settings(table, tmp_path, "seed=4"))
    experiment = build_experiment(config, tmp_path / "run", Silent().progress, model=None, data=None)
    data = experiment.images
    assert data.has_image is not None
    assert data.has_text is not None
    assert data.text_inputs is not None
    rows = [row for row in data.test.tolist() if data.has_image[row] and data.has_text[row]]
    assert 0 < len(rows) < len(data.test)
    model = experiment.model.eval()
    assert isinstance(model, Recognizer)
    seen = torch.tensor([[True, False]] * len(rows))
    features = model.backbone(beside_texts(model.prepare(data.images[rows]), data.text_inputs[rows], seen))
    with torch.no_grad():  # a head that tells images apart: an untrained one gives all rows one class
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.head.bias.copy_(-model.head(features).mean(0))

    def accuracy(image: bool, text: bool) -> float:
        present = torch.tensor([[image, text]] * len(rows))
        logits = model(beside_texts(model.prepare(data.images[rows]), data.text_inputs[rows], present))
        return float((logits.argmax(1) == data.labels[rows]).float().mean())

    measure = modality_measure(experiment)
    assert measure is not None
    expected = {
        "modality/both": accuracy(True, True),
        "modality/image_only": accuracy(True, False),
        "modality/text_only": accuracy(False, True),
    }
    assert measure(experiment.shared) == pytest.approx(expected)
    assert expected["modality/image_only"] not in (expected["modality/both"], expected["modality/text_only"])


def test_texts_stay_in_the_table(run: fedlens.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert SECRET not in capsys.readouterr().out
    files = [file for file in run.folder.parent.rglob("*") if file.is_file()]
    assert any(file.name.startswith("texts-") for file in files)
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


def test_a_run_repeats_and_resumes_to_the_same_bits(run: fedlens.Run, table: Path, tmp_path: Path) -> None:
    short = fedlens.run(None, *settings(table, tmp_path, "federated.num_rounds=2"), show=False)
    again = fedlens.resume(short.folder, "federated.num_rounds=4", show=False)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_workers_give_the_same_model(run: fedlens.Run, table: Path, tmp_path: Path) -> None:
    two = fedlens.run(None, *settings(table, tmp_path, "runtime.workers=2"), show=False)
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, two.model.state_dict()[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("how", ["average", "drop_clients"])
def test_baselines(how: str, run: fedlens.Run, table: Path, tmp_path: Path) -> None:
    other = fedlens.run(
        None, *settings(table, tmp_path, f"federated.missing_modalities={how}", "federated.num_rounds=1"), show=False
    )
    first, theirs = (read_metrics(one.folder / "metrics.jsonl")[0] for one in (run, other))
    assert first["measures"] != theirs["measures"]
    assert len(theirs["cohort"]) == {"average": 5, "drop_clients": 3}[how]


@pytest.mark.parametrize(
    "setting",
    [
        "memory.micro_batch=3",
        "personalization.name=ditto",
        "strategy.name=moon",
        "compression.name=quantize",
        "strategy.name=fedproto federated.missing_modalities=average",
    ],
)
def test_what_works_with_batches_takes_both(setting: str, table: Path, tmp_path: Path) -> None:
    found = fedlens.run(None, *settings(table, tmp_path, "federated.num_rounds=1", *setting.split()), show=False)
    (line,) = read_metrics(found.folder / "metrics.jsonl")
    assert not line["failures"]
    assert len(line["cohort"]) == 5
    assert all(report["metrics"]["drift"] > 0 for report in line["cohort"])


def test_it_is_not_exported(run: fedlens.Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(run.folder), "--format", "onnx", "--out", str(tmp_path / "out")])
    assert done.exit_code
    assert "takes images and texts" in " ".join(done.output.split())


def test_a_model_for_images_leaves_the_texts_out(table: Path, tmp_path: Path) -> None:
    overrides = settings(table, tmp_path, "federated.num_rounds=1", "model.name=lenet")
    plain = [one for one in overrides if not one.startswith(("model.width", "model.max"))]
    found = fedlens.run(None, *plain, show=False)
    clients = read_json(found.folder / "partition.json")["clients"]
    assert sorted(clients) == ["both1", "both2", "both3", "pictures"]
    assert any("without an image" in note for note in read_json(found.folder / "data.json")["notes"])
    assert not any(name.startswith("modality/") for name in measures(found)[-1])


def test_a_table_without_texts_is_refused(table: Path, tmp_path: Path) -> None:
    rows = [line.rsplit(",", 1)[0] for line in table.read_text(encoding="utf-8").splitlines()]
    plain = table.with_name("plain.csv")
    plain.write_text("\n".join(row for row in rows if not row.startswith(",")), encoding="utf-8")
    with pytest.raises(DataError, match="column `text`"):
        fedlens.run(None, *settings(plain, tmp_path), show=False)


def predicted(*command: str) -> dict[str, float]:
    done = CliRunner().invoke(app, ["predict", *command, "--json", "--top", "3"])
    assert done.exit_code == 0, done.output
    return {guess["class"]: guess["probability"] for guess in json.loads(done.stdout)["top"]}


def test_predictions_take_what_is_given(run: fedlens.Run, tmp_path: Path) -> None:
    photo(tmp_path / "fork.png", 1, 9000, 20)
    folder, image = str(run.folder), str(tmp_path / "fork.png")
    alone, both = predicted(folder, image), predicted(folder, image, "--text", "steel prongs dinner")
    by_text, other = predicted(folder, "--text", "steel prongs dinner"), predicted(folder, "--text", "round porcelain")
    assert max(alone, key=lambda name: alone[name]) == "fork"
    assert max(by_text, key=lambda name: by_text[name]) == "fork"
    assert max(other, key=lambda name: other[name]) == "plate"
    assert len({np.round(found["fork"], 4) for found in (alone, both, by_text, other)}) == 4


def test_a_text_alone_in_a_table_with_display_names(run: fedlens.Run, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('{"fork": "叉子"}', encoding="utf-8")
    asked = ("--text", "steel prongs dinner", "--names", str(tmp_path / "names.json"), "--csv", str(tmp_path / "a.csv"))
    done = CliRunner().invoke(app, ["predict", str(run.folder), *asked, "--top", "1"])
    assert done.exit_code == 0, done.output
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["image", "class", "display", "probability", "error"]
    assert (row["class"], row["display"], row["error"]) == ("fork", "叉子", "")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["--text", " \t"], "--text: it is empty"),
        ([], "give a photograph, or a text"),
        (["--text", "steel", "--html", "page.html"], "a page shows pictures"),
        (["--text", "steel", "--why"], "leave out --text"),
    ],
)
def test_what_predict_refuses(command: list[str], said: str, run: fedlens.Run) -> None:
    done = CliRunner().invoke(app, ["predict", str(run.folder), *command])
    assert done.exit_code
    assert said in " ".join((done.output + str(done.exception or "")).split())


def test_a_text_for_a_model_of_images() -> None:
    model = build_model(LeNet(), ModelRequest(3, 20, 3))
    with pytest.raises(ModelError, match="--text: this model takes images alone"):
        Predictor(model, ("cup", "fork", "plate"), read, 20, 3).beside("steel")


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("optimizer.mixup", ["optimizer.mixup=0.2"]),
        ("model.freeze", ["model.freeze=backbone"]),
        ("model.lora.rank", ["model.lora.rank=2"]),
        ("federated.missing_modalities", ["strategy.name=scaffold"]),
        ("federated.missing_modalities", ["aggregation.name=median"]),
        ("federated.missing_modalities", ["privacy.mode=central", "privacy.noise_multiplier=1"]),
        ("federated.missing_modalities", ["privacy.secure_aggregation=true"]),
        ("federated.missing_modalities", ["server.max_weight_share=0.3"]),
    ],
)
def test_what_does_not_combine(key: str, settings: list[str]) -> None:
    with refuses(("contradiction", key)):
        load(None, ["model.name=fusion", *settings])
    load(
        None, [*settings, *(["federated.missing_modalities=average", "model.name=fusion"] if "missing" in key else [])]
    )


def test_an_image_backbone_takes_images_alone() -> None:
    with pytest.raises(ConfigError, match=r"model\.image=fusion takes texts itself"):
        load(None, ["model.name=fusion", "model.image=fusion"])


def test_images_cannot_be_hidden_one_by_one() -> None:
    with refuses(("contradiction", "privacy.mode")):
        load(
            None,
            [
                "model.name=fusion",
                "privacy.mode=example",
                "privacy.noise_multiplier=1",
                "federated.missing_modalities=average",
            ],
        )
