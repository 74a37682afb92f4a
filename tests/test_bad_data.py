"""Bad data, through the command as users run it: images, tables, clients and models that do not fit, and training that
fails."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tests.commands import OTHER, SMALL, command, done, refused, refused_in_one_line
from tests.photos import photo, photos
from tests.runs import numbers

import fedlens
from fedlens.errors import TrainingDiverged
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import find_runs

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def test_an_empty_folder() -> None:
    Path("photos").mkdir()
    refused_in_one_line(f"run {SMALL} data.path=photos", "no images in photos", "<class>/<image>", status=1)
    refused_in_one_line(
        f"run {SMALL} data.path=photos data.source=imagefolder", "no images in photos", "<class>/<image>", status=OTHER
    )


def test_a_class_that_every_client_lacks() -> None:
    for folder in ("north", "south", "test"):
        photos(Path("data", folder), each=6)
        shutil.rmtree(Path("data", folder, "fork"))
    Path("data", "classes.json").write_text('["cup", "fork", "plate"]')
    shown, metrics = done("run data.path=data")
    assert "note: no client has a training image of fork: the model cannot learn this class" in shown
    assert metrics[0]["test"]["examples"] == 12
    photo(Path("data", "test", "fork", "1.png"), 1, 99)
    refused_in_one_line(
        f"run {SMALL} data.path=data", "the test split has images of 'fork'", "data read as <client>/<class>", status=1
    )


def test_what_was_found_in_the_data_is_said_before_an_error_about_its_division() -> None:
    for number, name in enumerate(("Cup", "cup", "fork")):
        photos(Path("data"), each=9, classes=(name,), seed=100 * number)
    Path("data/fork/broken.png").write_bytes(b"nothing")
    *notes, error = refused(f"run {SMALL} data.path=data", OTHER)
    assert notes == [
        "note: left out 1 of 28 images that cannot be read, such as data/fork/broken.png (not an image that OpenCV or "
        "Pillow can decode, or a damaged one)",
        "note: the classes 'Cup' and 'cup' differ in case, spaces or Unicode form only: two names of one class? Rename "
        "one if so",
    ]
    assert "10 clients of at least 10 need 100 images" in error
    assert error.endswith("(data read as <class>: 3 classes (Cup, cup, fork), no splits)")


def test_a_client_with_one_image_takes_part() -> None:
    photos(Path("data", "many"), each=6)
    photo(Path("data", "one", "cup", "only.png"), 0, 99)
    _, metrics = done("run data.path=data data.test=0")
    assert {report["client"]: report["weight"] for report in metrics[0]["cohort"]}["one"] == 1


def test_images_that_cannot_be_read_are_left_out_and_counted() -> None:
    folder = photos(Path("data", "north"))
    (folder / "cup" / "broken.png").write_bytes((folder / "cup" / "0.png").read_bytes()[:100])
    (folder / "fork" / "empty.jpg").touch()
    photos(Path("data", "south"))
    done("run data.path=data")
    report = json.loads(find_runs(Path("logs"))[0].data.read_text())
    assert report["read"] == 60
    (broken, why_broken), (empty, why_empty) = report["skipped"]
    assert broken.endswith("cup/broken.png")
    assert "damaged" in why_broken
    assert (empty, why_empty) == ("data/north/fork/empty.jpg", "the file is empty")


def test_images_that_cannot_be_read_are_an_error_on_request() -> None:
    folder = photos(Path("photos"), each=2)
    (folder / "fork" / "empty.jpg").touch()
    refused_in_one_line(
        f"run {SMALL} data.path=photos data.on_bad_image=fail",
        "photos/fork/empty.jpg: the file is empty",
        "mend or remove it, or set data.on_bad_image to skip",
        status=OTHER,
    )


def test_resuming_what_is_no_run_names_those_nearby() -> None:
    Path("logs", "old").mkdir(parents=True)
    refused_in_one_line("resume logs/old", "'logs/old' is no run", "`fedlens run` makes one")
    refused_in_one_line("resume logs/older", "'logs/older' does not exist")
    Path("logs", "whole", "checkpoints").mkdir(parents=True)
    Path("logs", "whole", "config.yaml").touch()
    refused_in_one_line("resume logs/old", "Runs nearby: logs/whole")


def test_predicting_what_is_no_image_and_with_what_is_no_model() -> None:
    for client in ("north", "south"):
        photos(Path("data", client), each=5)
    done("run data.path=data")
    (run,) = find_runs(Path("logs"))
    Path("notes.jpg").write_text("no picture")
    refused_in_one_line(f"predict {run.path} notes.jpg", "notes.jpg: not an image", status=OTHER)
    refused_in_one_line(f"predict {run.path} gone.jpg", "gone.jpg: No such file", status=OTHER)
    refused_in_one_line(
        "predict logs notes.jpg", f"logs holds runs; name one of them, newest first: {run.path}", status=OTHER
    )
    refused_in_one_line("predict logs/nowhere notes.jpg", "logs/nowhere: there is no such run folder", status=OTHER)
    refused_in_one_line("predict efficientnet_lite notes.jpg", "Did you mean 'efficientnet_lite0'?")


def test_a_rate_that_diverges_everywhere_stops_with_advice() -> None:
    result = command(f"run {SMALL} federated.fraction_fit=0.2 optimizer.lr=1e12")
    assert result.exit_code == OTHER
    (message,) = result.stderr.splitlines()
    for part in ("round 1", "none of the 2 clients", "not finite", "smaller optimizer.lr (now 1e+12)", "clip_norm=1"):
        assert part in message


@pytest.mark.parametrize("workers", [1, 2])
def test_nan_at_one_client_drops_its_update_and_goes_on(workers: int) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3))
    run = fedlens.run(
        None, "federated.num_rounds=2", f"runtime.workers={workers}", "tracking.tensorboard=false", show=False,
        model=model, data={"east": numbers(40), "sick": numbers(30, broken=True), "west": numbers(20)},
        test=numbers(50),
    )  # fmt: skip
    lines = read_metrics(run.folder / "metrics.jsonl")
    for line in lines:
        assert [failure["client"] for failure in line["failures"]] == ["sick"]
        assert {report["client"] for report in line["cohort"]} == {"east", "west"}
        assert line["test"]["loss"] > 0
    assert all(value.isfinite().all() for value in run.model.state_dict().values())
    assert re.search(r"<td>1</td><td>sick</td><td>[^<]*not finite", run.report.read_text(encoding="utf-8"))


def test_nan_at_every_client_stops_with_advice() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3))
    data = {"east": numbers(40, broken=True), "west": numbers(30, broken=True)}
    with pytest.raises(TrainingDiverged, match=r"none of the 2 clients .*smaller optimizer\.lr.*fedlens data show"):
        fedlens.run(None, "tracking.tensorboard=false", show=False, model=model, data=data, test=numbers(10))


def test_columns_of_a_table_by_their_names() -> None:
    photos(Path("img"), each=10)
    files = sorted(Path("img").glob("*/*.png"))
    Path("all.csv").write_text("file;class\n" + "".join(f"{file};{file.parent.name}\n" for file in files))
    table = f"run {SMALL} data.path=all.csv data.partition.clients=2"
    refused_in_one_line(table, "data.columns.path=file data.columns.label=class", status=OTHER)
    refused_in_one_line(f"{table} data.columns.pth=file", "data.columns.pth: no such key; known: path, label, client")
    refused_in_one_line(
        f"{table} data.columns.path=file data.columns.label=kind",
        "data.columns.label: all.csv has no column 'kind'",
        status=OTHER,
    )
    done(f"{table} data.columns.path=file data.columns.label=class")
