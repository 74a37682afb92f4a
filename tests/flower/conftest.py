"""Whose Flower's messages are, and a server's runtime with sites in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.supercore.task_identity import TaskIdentity
from tests.flower.authority import HOSTS
from tests.flower.stage import Stage

from fedlens.flower import runtime
from fedlens.flower.certificates import create


@pytest.fixture(autouse=True)
def task_identity() -> Iterator[None]:
    """Flower's `Message` asks whose it is; here it is nobody's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_task_id", "_run_id", "_node_id"):
            patch.setattr(TaskIdentity, name, 1)
        yield


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime looks without pauses."""
    monkeypatch.setattr(runtime, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(runtime, "SLOWEST_POLL_SECONDS", 0.001)
    monkeypatch.setattr(runtime, "NODES_SECONDS", 0.0)
    monkeypatch.setattr(runtime, "LEAVE_SECONDS", 0.05)


@pytest.fixture
def stage(tmp_path: Path, quick: None) -> Stage:
    return Stage(tmp_path)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority's folder, never changed by a test."""
    folder = tmp_path_factory.mktemp("federation") / "certs"
    create(folder, HOSTS, ["client1", "client2"], 825)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "certs")
