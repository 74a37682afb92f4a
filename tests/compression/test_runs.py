"""Compressed runs, through the command's own interface: bytes, going on after a stop, and what does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fedlens

SMALL = (
    *("data.source=sample", "model.name=lenet", "federated.fraction_fit=0.3", "federated.evaluate_every=0"),
    *("tracking.tensorboard=false", "tracking.report=false", "runtime.name=in_process"),
)


def run(folder: Path, *overrides: str) -> fedlens.Run:
    return fedlens.run(None, *SMALL, f"tracking.dir={folder}", *overrides, show=False)


@pytest.mark.parametrize(
    ("overrides", "up", "down"),
    [
        (("compression.name=half", "compression.down=true"), 0.5, 0.5),
        (("compression.name=quantize",), 0.25, 1.0),
        (("compression.name=quantize", "compression.bits=4"), 0.125, 1.0),
        (("compression.name=topk", "compression.share=0.05"), 0.1, 1.0),
    ],
    ids=["half", "8 bits", "4 bits", "topk"],
)
def test_a_compressed_run_sends_less_and_says_so(tmp_path: Path, overrides, up: float, down: float) -> None:
    metrics = run(tmp_path, "federated.num_rounds=1", *overrides).metrics
    whole = metrics["measures.traffic/whole_model"].iloc[0] / 2
    assert metrics["bytes_up"].iloc[0] == pytest.approx(up * whole, rel=0.02)
    assert metrics["bytes_down"].iloc[0] == pytest.approx(down * whole, rel=0.02)
    assert metrics["train_loss"].iloc[0] > 0


def test_a_stopped_run_goes_on_with_what_clients_remember(tmp_path: Path) -> None:
    how = ("compression.name=topk", "compression.share=0.05", "federated.fraction_fit=1")
    whole = run(tmp_path / "whole", "federated.num_rounds=2", *how)
    cut = run(tmp_path / "cut", "federated.num_rounds=1", *how)
    went_on = fedlens.resume(cut.folder, "federated.num_rounds=2", show=False)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, went_on.model.state_dict()[name]), name
