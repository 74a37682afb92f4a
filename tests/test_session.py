"""What a worker makes again where it cannot inherit it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.photos import photos

from fedlens.build.experiment import build_experiment
from fedlens.build.load import load
from fedlens.errors import DataError
from fedlens.session.run import UserObjects, rebuild_trainer


def quiet(_label: str):
    return lambda _done, _all: None


def test_a_worker_with_other_images_is_refused(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    config = load(None, [f"data.path={folder}", "model.name=lenet", "data.partition.clients=2"])
    here = build_experiment(config, tmp_path, quiet, model=None, data=None)
    there = rebuild_trainer(config, tmp_path, UserObjects(), here.holdings)
    assert there.shared == here.trainer.shared
    next(folder.glob("*/0.png")).unlink()
    with pytest.raises(DataError, match=f"data.path={folder} gives other images here"):
        rebuild_trainer(config, tmp_path, UserObjects(), here.holdings)
