"""A trained model on disk: `model.safetensors` (the tensors) and `model.json` (how to build the model, and its class
names)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, overload

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from fedlens.core import clean
from fedlens.core.files import write_atomic
from fedlens.core.instead import Instead
from fedlens.errors import ModelError
from fedlens.models.base import ModelRequest, Recognizer
from fedlens.models.build import build_model, builder_named
from fedlens.models.description import DESCRIPTION, WEIGHTS, ModelDescription, read_description, to_json
from fedlens.models.tensor_files import read_tensors

M = TypeVar("M", bound=nn.Module)


def save_model(folder: Path, model: nn.Module, description: ModelDescription) -> None:
    """Write `model` to `folder`; each of the two files is replaced atomically.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    write_atomic(folder / WEIGHTS, to_safetensors(tensors))
    write_atomic(folder / DESCRIPTION, to_json(description))


@overload
def load_model(folder: Path) -> tuple[Recognizer, ModelDescription]: ...


@overload
def load_model(folder: Path, module: M) -> tuple[M, ModelDescription]: ...


def load_model(folder: Path, module: nn.Module | None = None) -> tuple[nn.Module, ModelDescription]:
    """Load what `save_model` wrote. For a user's own module, pass the module: only its tensors are on disk.

    Returns:
        The model, in eval mode, on the CPU; and its description.

    Raises:
        ModelError: the files are missing, damaged or do not fit each other; or the module was not given.
    """
    description = read_description(folder)
    tensors = read_tensors(folder / WEIGHTS)
    if module is None:
        _check_size(folder, description, tensors)
    model = module if module is not None else _build(folder, description)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise ModelError(f"{folder / WEIGHTS} does not fit {type(model).__name__}: {clean.line(lines)}") from error
    return model.eval(), description


def _check_size(folder: Path, description: ModelDescription, tensors: Mapping[str, Tensor]) -> None:
    """Build the model on the meta device, which uses no memory, and compare its shapes with those of the file.

    Raises:
        ModelError: the file's tensors do not match the description; building such a model could request any amount of
            memory.
    """
    try:
        with torch.device("meta"), _without_normal():
            wanted = _build(folder, description).state_dict()
    except (ModelError, RuntimeError):  # some architectures compute with values while they are built
        rows = {len(tensor) for tensor in tensors.values() if tensor.numel()}
        if description.num_classes not in rows:
            classes = f"{description.num_classes:,} classes"
            raise ModelError(f"{folder / DESCRIPTION} says {classes}, and {WEIGHTS} has no tensor of so many") from None
        return
    other = [name for name, tensor in wanted.items() if name not in tensors or tensors[name].shape != tensor.shape]
    if other:
        first, more = other[0], f"; and {len(other) - 1} more" if len(other) > 1 else ""
        found = tuple(tensors[first].shape) if first in tensors else "not there"
        should = f"{first} should be {tuple(wanted[first].shape)}, and is {found}"
        raise ModelError(f"{folder / WEIGHTS} does not fit {DESCRIPTION}: {should}{more}")


def _without_normal() -> Instead:
    """Leaves out `nn.init.normal_`: on the meta device, where tensors have no values, torch imports its compiler for
    it, which takes a second."""
    return Instead({nn.init.normal_: lambda tensor, **_: tensor})


def _build(folder: Path, description: ModelDescription) -> Recognizer:
    if description.builder is None:
        raise ModelError(f"{folder} holds the tensors of a module of your own: give it, as load_model(folder, module)")
    builder = builder_named(description.builder, description.parameters)
    names = description.class_names
    request = ModelRequest(
        description.num_classes, description.image_size, description.image_channels, class_names=names
    )
    return build_model(builder, request, norm=description.norm)
