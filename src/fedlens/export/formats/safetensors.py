"""safetensors: the tensors, and a JSON file that says how to build the model, as in a run's own `model/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedlens.export.base import Format, Runner, Trained, WithPreprocessing, formats
from fedlens.models.artefact import load_model, save_model
from fedlens.models.description import DESCRIPTION, WEIGHTS


@formats.register("safetensors", summary="the tensors and a JSON file, for PyTorch with FedLens")
@dataclass(frozen=True)
class SafeTensors(Format):
    library: ClassVar[str] = "pytorch"
    packages: ClassVar[tuple[str, ...]] = ("torch", "safetensors")
    files: ClassVar[tuple[str, ...]] = (WEIGHTS, DESCRIPTION)
    whole: ClassVar[bool] = False
    usage: ClassVar[str] = """\
from pathlib import Path

import torch
from fedlens.models.artefact import load_model

model, description = load_model(Path("."))
logits = model(model.prepare(torch.as_tensor(images)))
names = description.class_names
"""

    def check(self, trained: Trained) -> None:
        """Every model can be written so."""

    def write(self, trained: Trained, folder: Path) -> str:
        save_model(folder, trained.model, trained.description)
        return "32-bit floats"

    def open(self, folder: Path) -> Runner:
        return WithPreprocessing(load_model(folder)[0]).eval()
