"""Files of named tensors: read without executing code from them, and loaded into a model."""

from __future__ import annotations

import logging
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedlens.core import clean
from fedlens.core.files import open_regular
from fedlens.errors import ModelError
from fedlens.models.base import ModelBuilder, Recognizer
from fedlens.models.weight_formats import Format, format_of, refused_object

log = logging.getLogger(__name__)

NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
"""Keys under which training scripts store the tensors when the file has other content too."""

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""Name prefixes added by DataParallel, torch.compile and training frameworks."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors file, or in a file that torch.save wrote (.pth, .pt, .bin).

    Raises:
        ModelError: the file is missing, damaged, of another format, or holds other objects than named tensors.
    """
    try:
        with open_regular(path) as file:
            kind = format_of(file)
        content = _read(path, kind)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such weights file") from error
    except EOFError as error:
        raise ModelError(f"{path} is cut or damaged: download or copy it again") from error
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} {refused_object(str(error))}") from error
    except MemoryError as error:
        raise ModelError(f"{path} does not fit into this machine's memory") from error
    except ModelError as error:
        raise ModelError(f"{path} {error}") from error
    except (OSError, RuntimeError, ValueError, LookupError, SafetensorError) as error:
        reason = clean.line(str(getattr(error, "strerror", None) or error).partition("\n")[0], 200)
        raise ModelError(f"{path} cannot be read as weights (delete it if it was a download): {reason}") from error
    return _named_tensors(content, path)


def _read(path: Path, kind: Format) -> Any:
    if kind == "safetensors":
        return load_file(path)
    with warnings.catch_warnings(), open_regular(path) as file:  # of a path, torch 2.12 and later believes the suffix
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)


def _named_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[key] for key in NESTED if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not named or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path} holds no named tensors; expected a state dict (torch.save) or a .safetensors file")
    if not content:
        raise ModelError(f"{path} holds no tensors")
    tensors: dict[str, Tensor] = content
    return tensors


def load_into(model: Recognizer, tensors: dict[str, Tensor], path: Path, builder: ModelBuilder) -> None:
    """Load the `tensors` of the file `path` into `model`, which `builder` has built.

    Names may be FedLens' own ("backbone.…", "head.…") or the architecture's. A head for another number of classes is
    not loaded: the model's head starts at zero, and this is logged.

    Raises:
        ModelError: names are missing or unknown, or shapes differ; the message lists all.
    """
    tensors = _unwrapped(tensors)
    named = tensors if any(name.startswith("backbone.") for name in tensors) else builder.renamed(model, tensors)
    own = model.state_dict()
    if new_head := _new_head(model, named):
        log.warning("%s: %s; a new one with %d starts at zero", path, new_head, _outputs(model))
        named = {name: tensor for name, tensor in named.items() if not name.startswith("head.")}
        for parameter in model.head.parameters():
            nn.init.zeros_(parameter)
        own = {name: tensor for name, tensor in own.items() if not name.startswith("head.")}
    own = {name: tensor for name, tensor in own.items() if name in named or name not in model.added}
    problems = _mismatches(own, named)
    if problems:
        raise ModelError(f"{path} does not fit the model: {'; '.join(problems)}")
    model.load_state_dict(named, strict=False)


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without wrappers' name prefixes."""
    while wrapper := next((one for one in WRAPPERS if all(name.startswith(one) for name in tensors)), None):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _new_head(model: Recognizer, named: dict[str, Tensor]) -> str | None:
    """Why the file's head cannot be used although its features fit: another number of classes, or no head at all."""
    if not isinstance(model.head, nn.Linear):
        return None
    given = named.get("head.weight")
    if given is None:
        has_backbone = all(f"backbone.{name}" in named for name, _ in model.backbone.named_parameters())
        return "it has no head" if has_backbone and "head.bias" not in named else None
    same_features = given.shape[1:] == model.head.weight.shape[1:]
    other_classes = given.shape[0] != model.head.out_features
    return f"its head has {given.shape[0]} outputs" if same_features and other_classes else None


def _outputs(model: Recognizer) -> int:
    return model.head.get_parameter("weight").shape[0]


def _mismatches(own: dict[str, Tensor], given: dict[str, Tensor]) -> list[str]:
    """One line for each missing name, unknown name and different shape. Batch counters are optional: old files lack
    them."""
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
