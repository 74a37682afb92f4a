"""TorchScript: one file that PyTorch loads in C++, or in Python without the classes of the model. PyTorch calls it
deprecated, and 2.13 still writes and reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from fedlens.export.base import Format, Runner, Trained, WithPreprocessing, formats


@formats.register("torchscript", summary="for PyTorch in C++, or without FedLens; preprocessing inside; deprecated")
@dataclass(frozen=True)
class TorchScript(Format):
    library: ClassVar[str] = "pytorch"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    files: ClassVar[tuple[str, ...]] = ("model.pt",)
    whole: ClassVar[bool] = True
    usage: ClassVar[str] = """\
import json
import torch

inside = {"class_names.json": "", "preprocessing.json": ""}
model = torch.jit.load("model.pt", _extra_files=inside)
logits = model(torch.as_tensor(images))
names = json.loads(inside["class_names.json"])
"""

    def check(self, trained: Trained) -> None:
        """Every model is tried."""

    def write(self, trained: Trained, folder: Path) -> str:
        sample = torch.zeros(2, *trained.preprocessing["pixels"]["shape"][1:], dtype=torch.uint8)
        inside = {
            "class_names.json": json.dumps(trained.outputs),
            "preprocessing.json": json.dumps(trained.preprocessing),
        }
        with torch.no_grad():
            traced = torch.jit.trace(WithPreprocessing(trained.model).eval(), sample)
            torch.jit.save(traced, str(folder / self.files[0]), _extra_files=inside)
        return f"TorchScript of PyTorch {torch.__version__.partition('+')[0]}"

    def open(self, folder: Path) -> Runner:
        model: Runner = torch.jit.load(str(folder / self.files[0]), map_location="cpu")
        return model
