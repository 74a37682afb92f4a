"""Whole experiments through the public API: what a notebook or a script does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.helpers import tiny_model
from tests.problems import refuses, refuses_with
from tests.runs import QUICK, Clothes, run, separable
from torch.utils.data import TensorDataset

import fedlens
from fedlens.errors import CheckpointError, NotEnoughClients
from fedlens.models.artefact import load_model
from fedlens.strategies.base import strategies
from fedlens.tracking.metrics import read_metrics


def comparable(run: fedlens.Run) -> list[dict]:
    """Everything that a repeat must repeat: not the seconds."""
    lines = read_metrics(run.folder / "metrics.jsonl")
    for line in lines:
        del line["seconds"]
        for client in line["cohort"]:
            for timed in ("seconds", "data_share"):
                client["metrics"].pop(timed, None)
    return lines


def weights(run: fedlens.Run) -> bytes:
    return (run.folder / "model" / "model.safetensors").read_bytes()


def test_a_run_leaves_everything_behind(tmp_path: Path) -> None:
    done = fedlens.run(None, *QUICK[:-2], f"tracking.dir={tmp_path}", show=False)
    names = {path.name for path in done.folder.iterdir()}
    assert names >= {
        "config.yaml", "versions.json", "metrics.jsonl", "partition.json", "data.json", "confusion.json",
        "checkpoints", "model", "best", "report.html", "result.json",
    }  # fmt: skip
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert list(done.metrics.index) == [1, 2, 3]
    (done.folder / "metrics.jsonl").rename(done.folder / "kept.jsonl")
    assert done.metrics.empty, "a run that was stopped in its first round has no lines"
    (done.folder / "kept.jsonl").rename(done.folder / "metrics.jsonl")
    assert done.metrics["train_loss"].iloc[-1] < done.metrics["train_loss"].iloc[0]
    assert done.config.model.name == "lenet"
    model, description = load_model(done.folder / "model")
    assert description.class_names[0] == "T-shirt/top"
    assert description.accuracy == pytest.approx(done.metrics["test.accuracy"].iloc[-1])
    images = torch.rand(2, 1, 28, 28)
    assert torch.allclose(model(images), done.model(images), atol=1e-6)


def test_a_repeat_is_bit_identical_and_a_seed_changes_it(tmp_path: Path) -> None:
    once, again, other = run(tmp_path), run(tmp_path), run(tmp_path, "seed=1")
    assert weights(once) == weights(again)
    assert comparable(once) == comparable(again)
    assert weights(once) != weights(other)


def test_other_worker_counts_agree(tmp_path: Path) -> None:
    one, three = run(tmp_path, "runtime.workers=1").model, run(tmp_path, "runtime.workers=3").model
    for (name, left), right in zip(one.state_dict().items(), three.state_dict().values(), strict=True):
        assert torch.allclose(left, right, atol=1e-5), name


def test_a_frozen_beginning_is_gone_through_once_and_the_whole_model_is_saved(tmp_path: Path) -> None:
    given = (
        "model.name=cnn",
        "model.freeze=2",
        "data.image_size=12",
        "tracking.updates=true",
        "federated.num_rounds=2",
    )
    done, short = run(tmp_path, *given), run(tmp_path, *given, "federated.num_rounds=1")
    assert weights(done) == weights(fedlens.resume(short.folder, "federated.num_rounds=2", show=False))
    line = read_metrics(done.folder / "metrics.jsonl")[0]
    frozen = ("backbone.0.", "backbone.3.")
    travelling = sum(value.nbytes for name, value in done.model.state_dict().items() if not name.startswith(frozen))
    assert line["bytes_up"] == 3 * travelling
    assert -1 <= line["measures"]["cosine/pairwise"] < line["measures"]["cosine/to_mean"] <= 1
    saved, _ = load_model(done.folder / "model")
    first, _ = load_model(run(tmp_path, *given, "federated.num_rounds=1", "optimizer.lr=1e-9").folder / "model")
    for name, value in saved.state_dict().items():
        assert torch.allclose(value, first.state_dict()[name], atol=1e-6) == name.startswith(frozen), name


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam"])
def test_more_rounds_by_resuming_are_the_same_as_at_once(tmp_path: Path, strategy: str) -> None:
    whole = run(tmp_path, f"strategy.name={strategy}", "optimizer.keep=true")
    short = run(tmp_path, f"strategy.name={strategy}", "optimizer.keep=true", "federated.num_rounds=1")
    longer = fedlens.resume(short.folder, "federated.num_rounds=3", show=False)
    assert longer.folder == short.folder
    assert weights(whole) == weights(longer)
    # round 1 was that run's last, so its clients were evaluated then
    assert [line["train_loss"] for line in comparable(whole)] == [line["train_loss"] for line in comparable(longer)]


def test_counters_of_batches_are_nobody_s(tmp_path: Path) -> None:
    """In one process they would go on from client to client, and begin again where a run is resumed."""
    given = {"model": tiny_model(), "data": {f"c{seed}": separable(30, seed) for seed in range(3)}}
    alone = ("federated.fraction_fit=1", "runtime.name=in_process")
    whole = run(tmp_path, *alone, **given)
    assert whole.metrics["train_loss"].iloc[-1] < whole.metrics["train_loss"].iloc[0]
    short = run(tmp_path, *alone, "federated.num_rounds=1", **{**given, "model": tiny_model()})
    longer = fedlens.resume(short.folder, "federated.num_rounds=3", show=False, **{**given, "model": tiny_model()})
    assert weights(longer) == weights(whole)
    assert not whole.model.get_buffer("backbone.1.num_batches_tracked")


def test_less_memory_is_something_that_a_run_can_go_on_with(tmp_path: Path) -> None:
    short = run(tmp_path, "federated.num_rounds=1")
    longer = fedlens.resume(short.folder, "federated.num_rounds=2", "memory.micro_batch=8", show=False)
    assert longer.config.memory.micro_batch == 8
    whole = run(tmp_path, "federated.num_rounds=2")
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(value, longer.model.state_dict()[name], atol=1e-5), name


def test_resuming_may_not_change_what_was_trained(tmp_path: Path) -> None:
    short = run(tmp_path, "federated.num_rounds=1")
    with refuses(("fixed", "memory.channels_last")):
        fedlens.resume(short.folder, "memory.channels_last=false", show=False)  # an optimizer's state lies in its order
    with refuses(("fixed", "optimizer.lr")) as caught:
        fedlens.resume(short.folder, "optimizer.lr=1", "seed=2", show=False)
    line = "optimizer.lr=1, seed=2: a resumed run may change only .*runtime.\\*, .*start a new run with `fedlens run`$"
    assert re.match(line, str(caught.value))


def test_a_run_whose_quorum_is_never_there_goes_on_with_a_smaller_one(tmp_path: Path) -> None:
    """Drop-outs of a virtual clock are the same ones in a resume."""
    clock = ("clock.name=half_normal", "clock.dropout=0.6", "federated.num_rounds=2")
    with pytest.raises(NotEnoughClients, match=r"with a smaller federated\.quorum"):
        run(tmp_path, *clock, "federated.quorum=3", "seed=1")
    (folder,) = tmp_path.iterdir()
    done = fedlens.resume(folder, "federated.quorum=1", "federated.min_fit_clients=1", show=False)
    assert len(read_metrics(done.folder / "metrics.jsonl")) == 2


def test_resuming_on_other_images_is_refused(tmp_path: Path) -> None:
    short = run(tmp_path, "federated.num_rounds=1")
    (short.folder / "data-key.json").write_text(json.dumps("other images"))
    with pytest.raises(CheckpointError, match="the images have changed"):
        fedlens.resume(short.folder, "federated.num_rounds=2", show=False)


def test_resuming_with_clients_that_hold_other_rows_is_refused(tmp_path: Path) -> None:
    """As a run of an older version, whose partition was dealt out by another rule: nothing is known of its rows."""
    partition = run(tmp_path, "federated.num_rounds=1").folder / "partition.json"
    told = json.loads(partition.read_text())
    for division in ("other rows", None):
        partition.write_text(json.dumps(told | {"division": division}))
        with pytest.raises(CheckpointError, match="divided among the clients in another way than when this run began"):
            fedlens.resume(partition.parent, "federated.num_rounds=2", show=False)


def test_a_finished_run_resumed_is_left_as_it_is(tmp_path: Path) -> None:
    done = run(tmp_path)
    before = weights(done)
    assert weights(fedlens.resume(done.folder, show=False)) == before


def test_your_own_module_and_datasets_go_straight_in(tmp_path: Path) -> None:
    clients = {"north": separable(60, 1), "south": separable(40, 2), "west": separable(50, 3)}
    done = run(tmp_path, "federated.num_rounds=5", "federated.fraction_fit=1", model=Clothes(), data=clients,
               test=separable(90, 4))  # fmt: skip
    assert done.metrics["test.accuracy"].iloc[-1] > 0.9
    assert {line["client"] for line in done.metrics["cohort"].iloc[0]} == set(clients)
    assert isinstance(done.model, Clothes)
    again = run(tmp_path, "federated.num_rounds=1", "data.partition.scheme=iid", model=Clothes(), data=separable(200))
    assert len(json.loads((again.folder / "partition.json").read_text())["clients"]) == 10


def test_your_own_tracker_is_told(tmp_path: Path) -> None:
    class Mine:
        rounds: list[int] = []  # noqa: RUF012

        def round(self, record) -> None:
            self.rounds.append(record.round)

        def close(self) -> None:
            self.rounds.append(-1)

    run(tmp_path, trackers=[Mine()])
    assert Mine.rounds == [1, 2, 3, -1]


PLUGIN = """
from dataclasses import dataclass

from fedlens.strategies.base import LocalTerms, Strategy, strategies


@strategies.register("shrink", summary="pulls every parameter towards zero")
@dataclass(frozen=True)
class Shrink(Strategy):
    pull: float = 0.5

    def terms(self, ctx):
        return LocalTerms(correction=lambda parameters: self.pull * parameters)
"""


@pytest.mark.parametrize("threads", [1, 2], ids=["inherited", "made-again"])
def test_a_plugin_runs_in_worker_processes(tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    strategies.names()
    monkeypatch.setattr(strategies, "_entries", dict(strategies._entries))  # what it registers is forgotten afterwards
    plugin = tmp_path / f"shrink{threads}.py"
    plugin.write_text(PLUGIN.replace('"shrink"', f'"shrink{threads}"'))
    overrides = ("runtime.workers=2", f"runtime.threads_per_worker={threads}", "federated.num_rounds=1")
    plain = run(tmp_path, *overrides)
    shrunk = run(tmp_path, *overrides, f"plugins=[{plugin}]", f"strategy.name=shrink{threads}", "strategy.pull=1")
    norm = {name: sum(p.norm() for p in done.model.parameters()) for name, done in (("a", plain), ("b", shrunk))}
    assert norm["b"] < norm["a"]


def test_more_outputs_than_labels(tmp_path: Path) -> None:
    done = run(tmp_path, "model.num_classes=12", "federated.num_rounds=1")
    assert done.model(torch.rand(1, 1, 28, 28)).shape == (1, 12)


SESSION = """
import fedlens, fedlens.errors, torch
from torch.utils.data import TensorDataset
class Net(torch.nn.Sequential):
    pass
images = TensorDataset(torch.rand(12, 1, 8, 8), torch.arange(12) % 3)
own = {"model": Net(torch.nn.Flatten(), torch.nn.Linear(64, 3)), "data": {"a": images, "b": images}, "show": False}
given = ("federated.num_rounds=1", "federated.fraction_fit=1", "tracking.dir=logs", "tracking.report=false")
try:
    fedlens.run(None, *given, "runtime.threads_per_worker=2", **own)
except fedlens.errors.ConfigError as error:
    print(error)
print(len(fedlens.run(None, *given, "runtime.name=in_process", **own).metrics))
"""


def test_a_module_of_this_session_only_is_said_to_be_out_of_reach_of_new_processes(tmp_path: Path) -> None:
    """As in a notebook, where the main module has no file."""
    done = subprocess.run(
        [sys.executable, "-"], input=SESSION, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=120
    )
    refusal, rounds = done.stdout.strip().split("\n")[-2:]
    assert refusal == (
        "runtime.name='local': worker processes cannot import Net, defined in this session; put it into a file, or use "
        "runtime.name=in_process"
    )
    assert rounds == "1"


def test_a_module_that_a_function_defines_is_out_of_reach_of_new_processes_too(tmp_path: Path) -> None:
    class Local(Clothes):
        pass

    with refuses_with("incompatible", "runtime.name='local': worker processes cannot import Local, defined in this"):
        run(tmp_path, "runtime.threads_per_worker=2", model=Local(), data={"a": separable(9), "b": separable(9)})
    assert run(tmp_path, model=Local(), data={"a": separable(9), "b": separable(9)}).folder.exists()  # copies take it


def test_a_client_with_one_image_takes_part(tmp_path: Path) -> None:
    clients = {"big": separable(60, 1), "one": separable(1, 2)}
    done = run(tmp_path, "federated.fraction_fit=1", model=Clothes(), data=clients, test=separable(30, 3))
    assert {report["client"] for report in done.metrics["cohort"].iloc[0]} == {"big", "one"}


def test_a_frozen_backbone_sends_its_head_only(tmp_path: Path) -> None:
    done = run(tmp_path, "model.freeze=backbone", "federated.fraction_fit=0.2")
    assert done.metrics["bytes_up"].iloc[0] == 2 * (84 * 10 + 10) * 4
    assert load_model(done.folder / "model")[0](torch.rand(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize(
    ("shape", "model", "refused"),
    [
        ((3, 28, 28), "lenet", None),
        ((1, 32, 32), "cnn", None),
        ((3, 28, 40), "lenet", "model.name='lenet' does not take float tensors of shape (3, 28, 40)"),
        ((4, 28, 28), "cnn", None),  # a network of its own for four bands
        ((1, 32, 32), "timm:resnet10t", "'timm:resnet10t' does not take float tensors of shape (1, 32, 32)"),
        ((28, 28), "cnn", "takes float images of shape (C, H, W), not float tensors of shape (28, 28)"),
        ((28, 28, 3), "cnn", "does not take float tensors"),
    ],
)
def test_float_tensors_with_a_configured_model(tmp_path, shape, model, refused):
    data = TensorDataset(torch.rand(40, *shape), torch.arange(40) % 2)
    what = {"model.name": model, "federated.num_rounds": 1, "data.partition.scheme": "iid", "tracking.dir": tmp_path}
    settings = [f"{key}={value}" for key, value in what.items()] + [
        "data.partition.clients=2",
        "runtime.name=in_process",
    ]
    if refused is not None:
        with refuses(("incompatible", "model.name")) as caught:
            fedlens.run(None, *settings, data=data, show=False)
        assert refused in str(caught.value)
        return
    assert len(fedlens.run(None, *settings, data=data, show=False).metrics) == 1
