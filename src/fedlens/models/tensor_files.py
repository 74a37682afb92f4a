"""Files of named tensors, read without running anything that is in them, and fitted to a model."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedlens.errors import ModelError
from fedlens.models.base import Recognizer

log = logging.getLogger(__name__)

NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts store the tensors beside other things."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors file, or in a file that torch.save wrote (.pth, .pt, .bin).

    Raises:
        ModelError: no such file; damaged; or it holds something other than named tensors.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such weights file")
    try:
        content = _read(path)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{path} cannot be read as weights (delete it if it was a download): {reason}") from error
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path} holds no named tensors; expected a state dict (torch.save) or a .safetensors file")
    return content


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def load_into(model: Recognizer, tensors: dict[str, Tensor], path: Path) -> None:
    """Put the `tensors` of the file `path` into `model`.

    Names may be FedLens' own ("backbone.…", "head.…") or the architecture's. A head made for another number of
    classes is left out: the model's starts at zero, and the log says so.

    Raises:
        ModelError: names that are missing or unknown, or shapes that differ; all are named.
    """
    named = tensors if any(name.startswith("backbone.") for name in tensors) else _as_recognizer(model, tensors)
    own = model.state_dict()
    if _other_head(model, named):
        log.warning("%s: its head has %d outputs; a new one with %d starts at zero", path, *_outputs(model, named))
        named = {name: tensor for name, tensor in named.items() if not name.startswith("head.")}
        for parameter in model.head.parameters():
            nn.init.zeros_(parameter)
        own = {name: tensor for name, tensor in own.items() if not name.startswith("head.")}
    problems = _mismatches(own, named)
    if problems:
        raise ModelError(f"{path} does not fit the model: {'; '.join(problems)}")
    model.load_state_dict(named, strict=False)


def _as_recognizer(model: Recognizer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An architecture's own names: what the backbone does not know is the head, when that is one layer."""
    backbone = model.backbone.state_dict()
    rest = [name for name in tensors if name not in backbone]
    layers = {name.rpartition(".")[0] for name in rest}
    is_head = len(layers) == 1 and {name.rpartition(".")[2] for name in rest} <= {"weight", "bias"}
    named = {f"backbone.{name}": tensor for name, tensor in tensors.items() if name in backbone}
    named |= {f"head.{name.rpartition('.')[2]}" if is_head else name: tensors[name] for name in rest}
    return named


def _other_head(model: Recognizer, named: dict[str, Tensor]) -> bool:
    """Same features, another number of classes."""
    given = named.get("head.weight")
    if given is None or not isinstance(model.head, nn.Linear):
        return False
    return given.shape[1:] == model.head.weight.shape[1:] and given.shape[0] != model.head.out_features


def _outputs(model: Recognizer, named: dict[str, Tensor]) -> tuple[int, int]:
    return named["head.weight"].shape[0], model.head.get_parameter("weight").shape[0]


def _mismatches(own: dict[str, Tensor], given: dict[str, Tensor]) -> list[str]:
    """One line each for missing names, unknown names and shapes. Batch counters are optional: old files lack them."""
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    unknown = [name for name in given if name not in own]
    shapes = [
        f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    found = {"missing": missing, "unknown": unknown, "other shapes": shapes}
    return [f"{what}: {_some(names)}" for what, names in found.items() if names]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} … ({len(names)} in all)"
