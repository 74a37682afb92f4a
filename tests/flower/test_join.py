"""What a site finds out by itself, before any server is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.problems import refuses
from typer.testing import CliRunner

from fedlens.config.site import load_site
from fedlens.errors import DataError
from fedlens.flower import join
from fedlens.flower.site import source_of
from fedlens.tracking.observer import Silent


@pytest.mark.parametrize("source", ["auto", "imagefolder", "manifest"])
def test_a_missing_folder_is_said_before_a_server_is_asked(monkeypatch, tmp_path: Path, source: str) -> None:
    from fedlens.cli.main import app

    monkeypatch.setattr(join, "ResidentClient", lambda *_: pytest.fail("a server is asked"))
    options = ["--data_dir", str(tmp_path / "nope"), "--server_address", "localhost:1", f"source={source}"]
    found = CliRunner().invoke(app, ["client", *options, f"state_dir={tmp_path / 'state'}"])
    assert found.exit_code == 1, "as for data.path of `fedlens run`"
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"data_dir: {tmp_path / 'nope'} does not exist")


@pytest.mark.parametrize(
    ("built", "reason"), [(True, "is not on this machine"), (False, "needs a PyTorch with CUDA, and this is ")]
)
def test_a_missing_gpu_is_said_before_a_server_is_asked(monkeypatch, place, built: bool, reason: str) -> None:
    """As in an image for the CPU, or on a machine without a GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    monkeypatch.setattr(join, "ResidentClient", lambda *_: pytest.fail("a server is asked"))
    with refuses(("unavailable", "device")) as refused:
        join.join(place.config("device=cuda"), Silent())
    assert f"device='cuda' {reason}" in str(refused.value)


def test_folders_of_several_clients_are_said_too(tmp_path: Path) -> None:
    for client in ("north", "south"):
        for name in ("cat", "dog"):
            image = tmp_path / client / "train" / name / "1.png"
            image.parent.mkdir(parents=True)
            image.touch()
    with pytest.raises(DataError, match="holds the folders of several clients"):
        source_of(load_site(None, [f"data_dir={tmp_path}"]))
