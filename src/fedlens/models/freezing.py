"""Freezing: the backbone, or all modules up to some depth."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from fedlens.core.words import nearest
from fedlens.errors import ConfigError
from fedlens.models.base import Recognizer
from fedlens.models.stages import stage_ends, up_to

Freeze = str | int
"""none; backbone; a number of stages from the input; or the name of the last frozen module."""

NONE, BACKBONE = "none", "backbone"


def freeze(model: Recognizer, what: Freeze) -> None:
    """Freeze `model` up to `what`, in place: that part gets no gradients and stays in eval mode.

    Raises:
        ConfigError: there are fewer stages, there is no such module, or nothing would be left to train.
    """
    if what == NONE:
        return
    end = _last(model, what)
    modules, names = up_to(model, end)
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(False)
    # modules after the last layer with parameters (dropout, say) would only add noise to untrained features
    everything = not any(parameter.requires_grad for parameter in model.backbone.parameters())
    if everything and model.text_reader is not None:
        raise ConfigError(
            f"model.freeze = {what!r}: nothing of both parts of the model would be left to train; use model.freeze=1, "
            "or leave it out",
            code="incompatible",
            key="model.freeze",
        )
    model.hold([model.backbone] if everything else [*model.held, *modules])


@dataclass(frozen=True)
class Cut:
    """A model cut in two. chain: its frozen modules, in order of computation; shape: the chain's output for one image;
    tail: the rest of the model, which shares tensors and their names with the whole."""

    chain: nn.Sequential
    shape: torch.Size
    tail: Recognizer


def cut_behind(model: Recognizer, images: torch.Tensor) -> Cut | None:
    """Cut `model` after its frozen part. None if that part is no chain of modules, so that the rest needs more than its
    output: this is tested with `images`, uint8 (B, S, S, C), in eval mode."""
    names = {id(module): name for name, module in model.named_modules()}
    locked = [module for module in model.held if model.parts.get(names[id(module)]) == "text"]
    frozen = [module for module in model.held if module not in locked]
    chain = nn.Sequential(*frozen)
    tail = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    tail.hold([tail.get_submodule(names[id(module)]) for module in locked])
    for module in frozen:
        tail.set_submodule(names[id(module)], nn.Identity())
    training = model.training
    model.eval()
    tail.eval()
    try:
        with torch.inference_mode():
            inputs = model.prepare(images)
            between = chain(inputs)
            shape, same = between.shape[1:], torch.allclose(tail(between), model(inputs), rtol=1e-3, atol=1e-4)
    except (RuntimeError, ValueError, AssertionError, TypeError, AttributeError, IndexError):  # from the network
        return None
    finally:
        model.train(training)
    return Cut(chain, shape, tail) if same else None


def _last(model: Recognizer, what: Freeze) -> str:
    ends = [end for end in stage_ends(model) if end != "head"]
    if isinstance(what, int):
        if what > len(ends):
            raise ConfigError(
                f"model.freeze = {what}: the backbone has {len(ends)} stages: use 1 to {len(ends)}",
                code="incompatible",
                key="model.freeze",
            )
        return ends[what - 1]
    if what == "head" or what.startswith("head."):
        raise ConfigError(
            f"model.freeze = {what!r}: nothing would be left to train; use model.freeze=backbone",
            code="incompatible",
            key="model.freeze",
        )
    known = [name for name, _ in model.named_modules() if name]
    if what not in known:
        near = nearest(what, known)
        hint = f"Did you mean {near}? " if near else ""
        raise ConfigError(
            f"model.freeze = {what!r}: the model has no module of that name. {hint}Use backbone, a number of stages "
            f"from 1 to {len(ends)}, or the last module to freeze, such as {ends[len(ends) // 2]}",
            code="unknown_name",
            key="model.freeze",
        )
    return what
