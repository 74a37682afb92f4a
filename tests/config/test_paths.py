"""A run's paths lead to the same files from any folder, and its images may move."""

from __future__ import annotations

import os
import shutil

import pytest
from tests.photos import photos
from tests.problems import refuses_with

import fedlens
from fedlens.build.load import load, load_saved
from fedlens.config.load import dump
from fedlens.config.paths import PATHS_FILE, save_paths
from fedlens.errors import CheckpointError

SETTINGS = (
    *("model.name=lenet", "federated.num_rounds=1", "data.partition.clients=2", "data.partition.scheme=iid"),
    *("runtime.name=in_process", "tracking.tensorboard=false", "tracking.report=false"),
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_relative_paths_are_kept_as_absolute_ones_too(here, monkeypatch):
    (here / "photos").mkdir()
    run = here / "run"
    run.mkdir()
    config = load(None, ["data.path=photos", "model.weights=gone.pth"])
    (run / "config.yaml").write_text(dump(config))
    save_paths(run / PATHS_FILE, config)

    assert str(load_saved(run / "config.yaml").data.path) == "photos"
    monkeypatch.chdir(run)
    moved = load_saved(run / "config.yaml")
    assert moved.data.path == here / "photos"
    assert str(moved.model.weights) == "gone.pth"  # no file there: as it was typed
    assert str(load_saved(run / "config.yaml", ["data.path=.."]).data.path) == ".."
    (run / PATHS_FILE).write_text("[1]")
    with refuses_with("unreadable", f"{run / PATHS_FILE}: not a JSON object of keys and paths"):
        load_saved(run / "config.yaml")


def test_a_run_is_resumed_where_its_images_have_moved(here, monkeypatch):
    photos(here / "photos", each=12)
    run = fedlens.run(None, *SETTINGS, "data.path=photos", f"tracking.dir={here / 'logs'}", show=False)
    for file in (here / "photos").glob("*/*.png"):
        os.utime(file, (1, 1))
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    assert len(fedlens.resume(run.folder, "federated.num_rounds=2", show=False).metrics) == 2

    shutil.move(here / "photos", here / "moved")
    again = fedlens.resume(run.folder, "federated.num_rounds=3", f"data.path={here / 'moved'}", show=False)
    assert len(again.metrics) == 3

    shutil.copy(here / "moved" / "cup" / "1.png", here / "moved" / "fork" / "1.png")
    with pytest.raises(CheckpointError, match=r"the images have changed since .*data\.path=FOLDER"):
        fedlens.resume(run.folder, "federated.num_rounds=4", show=False)
