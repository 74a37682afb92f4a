"""Runs that are exported."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import runs
from tests.exports import exported


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of LeNet on the sample, with test images."""
    return runs.run(tmp_path_factory.mktemp("lenet"), "federated.num_rounds=1", "runtime.name=in_process").folder


@pytest.fixture(scope="module")
def lenet_exports(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Format → the folder of an export of that run, and what the command said."""
    base = tmp_path_factory.mktemp("exports")
    return {name: (base / name, exported(lenet, name, base / name)) for name in ("onnx", "torchscript", "safetensors")}


@pytest.fixture(scope="module")
def fedper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose clients keep their heads."""
    folder = tmp_path_factory.mktemp("fedper")
    given = (
        "federated.num_rounds=1",
        "federated.fraction_fit=1",
        "data.partition.scheme=iid",
        "data.partition.clients=3",
    )
    return runs.run(folder, *given, "personalization.name=fedper", "runtime.name=in_process").folder
