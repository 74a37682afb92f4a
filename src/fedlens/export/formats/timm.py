"""timm: a folder that `timm.create_model("local-dir:FOLDER")` reads, and the Hugging Face hub as well."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedlens.errors import ModelError
from fedlens.export.base import Format, Runner, Trained, formats

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@formats.register("timm", summary="a folder for timm.create_model and the Hugging Face hub; models of timm only")
@dataclass(frozen=True)
class TimmFolder(Format):
    library: ClassVar[str] = "timm"
    packages: ClassVar[tuple[str, ...]] = ("torch", "timm", "safetensors")
    files: ClassVar[tuple[str, ...]] = (WEIGHTS, CONFIG)
    whole: ClassVar[bool] = False
    usage: ClassVar[str] = """\
import timm
import torch

model = timm.create_model("local-dir:.", pretrained=True).eval()
how = timm.data.resolve_model_data_config(model)
pixels = torch.as_tensor(images).permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255
mean, std = (torch.tensor(how[key]).view(3, 1, 1) for key in ("mean", "std"))
logits = model((pixels - mean) / std)
names = model.pretrained_cfg["label_names"]
"""

    def check(self, trained: Trained) -> None:
        if why := _not_timms(trained):
            raise ModelError(f"--format timm: {why}; use --format onnx or safetensors")

    def write(self, trained: Trained, folder: Path) -> str:
        from timm.models import save_for_hf

        network, arguments = _network(trained)
        save_for_hf(
            network,
            str(folder),
            model_config={"label_names": list(trained.outputs)},
            model_args=arguments,
            safe_serialization=True,
        )
        return f"architecture {_architecture(trained)}"

    def open(self, folder: Path) -> Runner:
        import timm

        network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        how = timm.data.resolve_model_data_config(network)
        mean, std = (torch.tensor(how[key]).view(3, 1, 1) for key in ("mean", "std"))

        def run(pixels: Tensor) -> Tensor:
            logits: Tensor = network((pixels.permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255 - mean) / std)
            return logits

        return run


def _architecture(trained: Trained) -> str:
    """timm's name of the backbone's architecture; "" for a backbone of another library."""
    published = getattr(trained.model.backbone, "pretrained_cfg", {})
    return str(published.get("architecture", "")) if isinstance(published, dict) else ""


def _not_timms(trained: Trained) -> str:
    """Why timm could not build this model; "" if it can."""
    name = f"model.name={trained.description.builder}"
    if not _architecture(trained):
        return f"{name} is no architecture of timm"
    if trained.description.norm == "group":
        return "model.norm=group is in no architecture of timm"
    if trained.model.backbone._forward_pre_hooks:
        return f"{name} pads images of {trained.description.image_size} pixels to whole patches, and timm would not"
    return ""


def _network(trained: Trained) -> tuple[nn.Module, dict[str, Any]]:
    """timm's own network with the trained tensors and head; and the arguments that timm needs to build it again."""
    import timm

    architecture, size = _architecture(trained), trained.description.image_size
    published = timm.get_pretrained_cfg(architecture)
    arguments = {"img_size": size} if published and published.fixed_input_size else {}
    network = timm.create_model(architecture, num_classes=trained.description.num_classes, **arguments)
    last = network.get_classifier()
    head = next(name for name, module in network.named_modules() if module is last)
    tensors = trained.model.backbone.state_dict()
    tensors |= {f"{head}.{name}": tensor for name, tensor in trained.model.head.state_dict().items()}
    network.load_state_dict(tensors, strict=True)
    how = trained.model.preprocessing
    network.pretrained_cfg = {
        **network.pretrained_cfg,
        "input_size": (3, size, size),
        "mean": how.mean,
        "std": how.std,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    return network, arguments
