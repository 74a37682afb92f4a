import dataclasses
import sys
from pathlib import Path
from subprocess import run
from typing import Any

import cv2
import numpy as np
import pytest
from tests.fake_runs import CLASSES, CLIENTS, record

from fedlens.core.records import ClientEvaluation, RoundRecord
from fedlens.data.show import partition_figure
from fedlens.tracking.figures import confusion_figure, predictions_figure, to_image
from fedlens.tracking.metrics import line_of
from fedlens.tracking.scalars import scalars_of
from fedlens.tracking.tensorboard import TensorBoardWriter, placed


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def tell(writer: TensorBoardWriter, record: RoundRecord) -> None:
    writer.scalars(record.round, scalars_of(line_of(record)))


def scalar(accumulator: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value, rel=1e-5)) for event in accumulator.Scalars(placed(tag))]


def picture(accumulator: Any, tag: str) -> np.ndarray:
    (event,) = accumulator.Images(placed(tag))
    return cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("run")
    writer = TensorBoardWriter(folder)
    for number in (1, 2, 3):
        tell(writer, record(number, clients=number == 3))
    images = np.zeros((3, 8, 8, 1), dtype=np.uint8)
    predictions = predictions_figure(images, ["cat", "dog", "$dog$"], ["cat", "cat", "$dog$"])
    writer.picture("predictions/test", to_image(predictions), 3)
    test = record(3).test
    assert test is not None
    writer.picture("confusion/test", to_image(confusion_figure(test.confusion, CLASSES)), 3)
    partition = partition_figure(np.array([[8, 0, 0], [4, 4, 0]]), CLIENTS[:2], CLASSES)
    writer.picture("data/partition", to_image(partition), 0)
    writer.finish({"model.name": "lenet", "optimizer.lr": 0.1, "model.pretrained": False}, {"accuracy": 0.5})
    writer.close(ended=True)
    assert [path.is_file() for path in folder.iterdir()] == [True]  # no sub-folder: one run, not two
    return events(folder)


def test_every_number_of_a_round_is_there(written: Any) -> None:
    assert scalar(written, "test/accuracy") == [(1, 0.3), (2, 0.4), (3, 0.5)]
    assert scalar(written, "validation/loss") == [(1, 4.0), (2, 3.0), (3, 2.0)]
    assert scalar(written, "train/loss") == [(1, 1.8), (2, 1.6), (3, 1.4)]
    assert scalar(written, "train/learning_rate")[1] == (2, 0.05)
    assert scalar(written, "train/update_norm")[1] == (2, 0.5)
    assert scalar(written, "train/failures") == [(1, 0), (2, 1), (3, 0)]
    assert scalar(written, "communication/bytes_up")[0] == (1, 1e6)
    assert scalar(written, "communication/bytes_down")[0] == (1, 2e6)
    assert scalar(written, "seconds/train")[0] == (1, 2.0)
    assert scalar(written, "clients/accuracy") == [(3, 0.6)]
    assert scalar(written, "clients/accuracy_worst_tenth") == [(3, 0.3)]
    assert scalar(written, f"client_accuracy/{CLIENTS[1]}") == [(3, 0.6)]
    assert scalar(written, f"client_loss/{CLIENTS[2]}") == [(3, 0.9)]


def test_groups_come_in_the_order_in_which_they_are_looked_at(written: Any) -> None:
    """TensorBoard sorts them by name."""
    groups = list(dict.fromkeys(tag.partition("/")[0] for tag in sorted(written.Tags()["scalars"])))
    assert groups == [
        *("1_test", "2_validation", "3_train", "4_drift", "5_communication", "6_seconds", "7_final"),
        *("8_clients", "9_client_accuracy", "9_client_loss"),
    ]


def test_hyper_parameters_and_final_metrics_are_in_the_same_run(written: Any) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = written.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["model.name"].string_value == "lenet"
    assert hparams["optimizer.lr"].number_value == 0.1
    assert scalar(written, "final/accuracy") == [(0, 0.5)]


def test_pictures_show_confusion_and_predictions(written: Any) -> None:
    confusion = picture(written, "confusion/test")
    assert confusion.shape[0] > 200
    assert confusion.std() > 5  # not a blank page
    predictions = picture(written, "predictions/test").astype(int)
    blue, green, red = np.moveaxis(predictions, -1, 0)
    assert ((red - green > 80) & (red - blue > 80)).any()  # the wrong answer's title is red
    assert ((green - red > 60) & (green - blue > 60)).any()  # a right one is green


def test_the_partition_is_a_picture(written: Any) -> None:
    assert picture(written, "data/partition").std() > 5


def test_a_resumed_run_hides_later_rounds_of_the_killed_one(tmp_path: Path) -> None:
    killed = TensorBoardWriter(tmp_path)
    for number in (1, 2, 3):
        tell(killed, record(number))
    killed.close(ended=False)
    resumed = TensorBoardWriter(tmp_path)
    resumed.open([line_of(record(1))])
    tell(resumed, dataclasses.replace(record(2), lr=7.0))
    resumed.close(ended=True)
    assert scalar(events(tmp_path), "train/learning_rate") == [(1, 0.1), (2, 7.0)]


def test_many_clients_get_no_curve_each() -> None:
    many = tuple(ClientEvaluation(f"c{k}", accuracy=0.5, loss=1.0, examples=1, trained=True) for k in range(51))
    tags = scalars_of(line_of(dataclasses.replace(record(1), clients=many)))
    assert tags["clients/accuracy"] == 0.5
    assert not [tag for tag in tags if tag.startswith("client_")]


def test_making_a_writer_imports_and_opens_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from fedlens.tracking.tensorboard import TensorBoardWriter;"
        f"TensorBoardWriter(pathlib.Path({str(tmp_path)!r})).close(ended=True);"
        "assert not {'tensorboard', 'matplotlib'} & set(sys.modules)"
    )
    run([sys.executable, "-c", code], check=True)
    assert not list(tmp_path.iterdir())


def test_a_model_with_more_outputs_than_classes_has_a_confusion_picture() -> None:
    confusion = np.zeros((12, 12), dtype=np.int64)
    confusion[0, 11] = 4
    assert to_image(confusion_figure(confusion, CLASSES)).std() > 5


def test_what_else_was_measured_is_a_scalar_of_its_name() -> None:
    measured = dataclasses.replace(record(2), measures={"attack/success": 0.5})
    assert scalars_of(line_of(measured))["attack/success"] == 0.5
    without = dataclasses.replace(record(2), measures={})
    assert scalars_of(line_of(measured)).keys() == scalars_of(line_of(without)).keys() | {"attack/success"}
