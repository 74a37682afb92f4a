"""What `tensorboard --logdir logs` shows of a real run, read back from its events."""

from __future__ import annotations

import json
import shlex
from typing import Any

import cv2
import numpy as np
import pytest
from tests.photos import CLASSES, photos
from typer.testing import CliRunner

from fedlens.cli.main import app
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir, find_runs
from fedlens.tracking.tensorboard import placed

CLIENTS = ("client1", "client2", "client3")
PHASES = ("broadcast", "train", "aggregate", "evaluate", "checkpoint")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Three rounds, clients evaluated in rounds 2 and 3."""
    base = tmp_path_factory.mktemp("run")
    for number, client in enumerate(CLIENTS):
        photos(base / "data" / client, each=20, seed=100 * number)
    line = (
        f"run data.path={base / 'data'} tracking.dir={base / 'logs'} model.name=lenet federated.num_rounds=3 "
        "federated.evaluate_clients_every=2 federated.local_epochs=5 optimizer.lr=0.05 optimizer.schedule=step "
        "optimizer.step_rounds=2 runtime.name=in_process "
        "tracking.report=false"
    )
    result = CliRunner().invoke(app, shlex.split(line))
    assert result.exit_code == 0, result.output
    return find_runs(base / "logs")[0]


@pytest.fixture(scope="module")
def board(run: RunDir) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run.path), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def metrics(run: RunDir) -> list[dict[str, Any]]:
    return read_metrics(run.metrics)


def curve(board: Any, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in board.Scalars(placed(tag))}


def shown(values: dict[int, float]) -> Any:
    """`values` as TensorBoard keeps them: 32-bit floats."""
    return pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("section", ["test", "validation"])
@pytest.mark.parametrize("figure", ["accuracy", "loss", "balanced_accuracy"])
def test_the_shared_model_in_every_round(board, metrics, section: str, figure: str) -> None:
    assert curve(board, f"{section}/{figure}") == shown({line["round"]: line[section][figure] for line in metrics})


@pytest.mark.parametrize(
    ("tag", "key"),
    [
        ("train/loss", "train_loss"),
        ("train/learning_rate", "lr"),
        ("train/update_norm", "update_norm"),
        ("communication/bytes_up", "bytes_up"),
        ("communication/bytes_down", "bytes_down"),
    ],
)
def test_training_and_traffic_in_every_round(board, metrics, tag: str, key: str) -> None:
    found = curve(board, tag)
    assert found == shown({line["round"]: line[key] for line in metrics})
    assert all(value > 0 for value in found.values())


def test_the_learning_rate_follows_its_schedule(board) -> None:
    assert curve(board, "train/learning_rate") == shown({1: 0.05, 2: 0.05, 3: 0.005})  # a tenth after two rounds


@pytest.mark.parametrize("phase", PHASES)
def test_seconds_by_phase(board, metrics, phase: str) -> None:
    assert curve(board, f"seconds/{phase}") == shown({line["round"]: line["seconds"][phase] for line in metrics})


@pytest.mark.parametrize(
    ("tag", "key"),
    [("accuracy", "accuracy"), ("accuracy_worst_tenth", "accuracy_worst_tenth"), ("loss", "loss")],
)
def test_clients_at_home_together(board, metrics, tag: str, key: str) -> None:
    expected = {line["round"]: line["clients"][key] for line in metrics if line["clients"]}
    assert sorted(expected) == [2, 3]
    assert curve(board, f"clients/{tag}") == shown(expected)


def test_every_client_at_home(board, metrics) -> None:
    at_home = {client["client"]: client for client in metrics[-1]["clients"]["by_client"]}
    assert tuple(at_home) == CLIENTS
    for name, client in at_home.items():
        assert curve(board, f"client_accuracy/{name}")[3] == pytest.approx(client["accuracy"], rel=1e-6)
        assert curve(board, f"client_loss/{name}")[3] == pytest.approx(client["loss"], rel=1e-6)
    accuracies = [client["accuracy"] for client in at_home.values()]
    assert curve(board, "clients/accuracy")[3] == pytest.approx(sum(accuracies) / 3)
    assert curve(board, "clients/accuracy_worst_tenth")[3] == pytest.approx(min(accuracies))  # of 3: the worst one


def test_hyper_parameters_with_the_final_figures(board, metrics) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["model.name"].string_value == "lenet"
    assert hparams["strategy.name"].string_value == "fedavg"
    assert hparams["federated.num_rounds"].number_value == 3
    assert hparams["optimizer.lr"].number_value == 0.05
    final = {
        name: board.Scalars(placed(f"final/{name}"))[0].value
        for name in ("test_accuracy", "test_loss", "client_accuracy")
    }
    last = metrics[-1]
    assert final == pytest.approx(
        {
            "test_accuracy": last["test"]["accuracy"],
            "test_loss": last["test"]["loss"],
            "client_accuracy": last["clients"]["accuracy"],
        },
        rel=1e-6,
    )


@pytest.mark.parametrize("tag", ["data/partition", "confusion/test", "predictions/test"])
def test_pictures(board, tag: str) -> None:
    (event,) = board.Images(placed(tag))
    picture = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert min(picture.shape[:2]) > 150
    assert picture.std() > 10  # not a blank page


def test_one_run_is_one_entry(run: RunDir) -> None:
    events = list(run.path.rglob("events.out.tfevents.*"))
    assert [file.parent for file in events] == [run.path]
    assert json.loads(run.partition.read_text())["class_names"] == list(CLASSES)
