"""The stages of a network, from images to logits: the units in which it is frozen and unfrozen.

A stage is a block of an outermost sequence (a residual block, an encoder layer), or a layer outside of one, together
with the normalisation that follows it. Parameters outside of modules before a stage (class token, position embeddings)
belong to it. A stage is identified by the dotted name of its last module; the order is that of registration, which in
all networks here equals that of computation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedlens.models.base import Recognizer

_SEQUENCES = (nn.Sequential, nn.ModuleList)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def stage_ends(model: nn.Module) -> list[str]:
    """The stages of `model`, each by the name of its last module; the last is the head of a `Recognizer`."""
    if not isinstance(model, Recognizer):
        return _with_norms(model, _blocks(model, ""))
    inside = [f"backbone.{name}" for name in _with_norms(model.backbone, _blocks(model.backbone, ""))]
    return [*inside, "head"]


def up_to(model: nn.Module, end: str) -> tuple[list[nn.Module], frozenset[str]]:
    """The modules of `model` from its beginning to the one called `end`, in order and each as large as possible; and
    the names of all parameters in them and between them."""
    modules: list[nn.Module] = []
    names: set[str] = set()
    part, at = model, ""
    for step in end.split("."):
        names.update(f"{at}{name}" for name, _ in part.named_parameters(recurse=False))
        for name, child in takewhile(lambda item: item[0] != step, part.named_children()):  # noqa: B023
            modules.append(child)
            names.update(f"{at}{name}.{inner}" for inner, _ in child.named_parameters())
        part, at = part.get_submodule(step), f"{at}{step}."
    names.update(f"{at}{name}" for name, _ in part.named_parameters())
    return [*modules, part], frozenset(names)


def _blocks(module: nn.Module, at: str) -> Iterator[str]:
    for name, child in module.named_children():
        if not any(True for _ in child.parameters()):
            continue
        if _opens(child, type(module) in _SEQUENCES):
            yield from _blocks(child, f"{at}{name}.")
        else:
            yield f"{at}{name}"


def _opens(module: nn.Module, in_sequence: bool) -> bool:
    """Whether to look inside a module: sequences and modules that contain one, unless they are members of a sequence
    themselves, which makes them blocks. Subclasses of `nn.Sequential` (torchvision's convolution with its norm) are
    blocks."""
    if type(module) in _SEQUENCES:
        return True
    return not in_sequence and any(type(inner) in _SEQUENCES for inner in module.modules())


def _with_norms(model: nn.Module, blocks: Iterator[str]) -> list[str]:
    ends: list[str] = []
    for name in blocks:
        if ends and isinstance(model.get_submodule(name), _NORMS):
            ends.pop()
        ends.append(name)
    return ends
