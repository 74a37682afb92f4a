"""What the tests of `fedlens export` share: exports, and other programs' ways to run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tests import fake_runs
from torch import nn
from typer.testing import CliRunner

from fedlens.cli.main import app
from fedlens.models.artefact import load_model, save_model
from fedlens.models.base import ModelRequest
from fedlens.models.build import build_model, builder_named
from fedlens.models.description import ModelDescription

WHOLE = {"onnx": "model.onnx", "torchscript": "model.pt"}


def export(run: Path, name: str, out: Path, *options: str):
    return CliRunner().invoke(app, ["export", str(run), "--format", name, "--out", str(out), *options])


def exported(run: Path, name: str, out: Path, *options: str) -> str:
    result = export(run, name, out, *options)
    assert result.exit_code == 0, result.output
    return result.output


def refused(run: Path, name: str, out: Path, *options: str, status: int = 1) -> str:
    """The one line; there is nothing new beside `out`."""
    before = sorted(out.parent.iterdir()) if out.parent.exists() else []
    result = export(run, name, out, *options)
    assert result.exit_code == status, result.output
    assert (sorted(out.parent.iterdir()) if out.parent.exists() else []) == before
    (line,) = result.stderr.splitlines()
    return line


def kept(base: Path, name: str, size: int, *, norm: str = "batch", channels: int = 3, **parameters: str) -> Path:
    """A finished run of another model with random weights and statistics, whose images are gone."""
    run = fake_runs.write_run(base)
    request = ModelRequest(len(fake_runs.CLASSES), size, channels)
    model = build_model(builder_named(name, parameters), request, norm=norm)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    suffix = {"timm": {"architecture": name.partition(":")[2]}}.get(name.partition(":")[0], {})
    description = ModelDescription(
        name.partition(":")[0],
        len(fake_runs.CLASSES),
        fake_runs.CLASSES,
        size,
        channels,
        {**parameters, **suffix},
        norm,
    )
    save_model(run.model, model, description)
    return run.path


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)


def original(run: Path, images: np.ndarray) -> torch.Tensor:
    model, _ = load_model(run / "model")
    with torch.inference_mode():
        return model(model.prepare(torch.from_numpy(images)))


def by_onnx(folder: Path, images: np.ndarray) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    return torch.from_numpy(session.run(None, {"images": images})[0])


def by_torchscript(folder: Path, images: np.ndarray) -> torch.Tensor:
    return torch.jit.load(str(folder / "model.pt"))(torch.from_numpy(images))


BY = {"onnx": by_onnx, "torchscript": by_torchscript}


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def perform(folder: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The variables that the code in the model card sets."""
    (_, code) = card(folder).split("```python\n")
    monkeypatch.chdir(folder)
    found = {"images": images}
    exec(code.partition("```")[0], found)
    return found
