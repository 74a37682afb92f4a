"""Bad data, through the command as users run it: images, tables, clients and models that do not fit, and training that
fails."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from tests.commands import OTHER, SMALL, command, done, refused
from tests.photos import photos
from tests.runs import numbers

import fedlens
from fedlens.errors import TrainingDiverged
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import find_runs

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


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
