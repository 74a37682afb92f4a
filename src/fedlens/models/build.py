"""Builds the model of a run from a builder and a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import ValidationError

from fedlens.errors import ConfigError, Problem
from fedlens.models.base import ModelBuilder, ModelRequest, Recognizer, models
from fedlens.models.description import Norm
from fedlens.models.freezing import NONE, Freeze, freeze
from fedlens.models.lora import add_lora
from fedlens.models.norms import use_group_norm
from fedlens.models.sections import LoraSection
from fedlens.models.tensor_files import load_into, read_tensors


def build_model(
    builder: ModelBuilder,
    request: ModelRequest,
    *,
    frozen: Freeze = NONE,
    norm: Norm = "batch",
    lora: LoraSection = LoraSection(),  # noqa: B008
    seed: int = 0,
) -> Recognizer:
    """Build the model. Its values depend only on the seed, not on earlier random draws; no global state changes.

    A weights file (`request.weights`) replaces pretrained weights, so nothing is downloaded. `frozen`: the part to
    freeze; `lora`: adapters that are trained instead of the backbone.

    Raises:
        ModelError: weights are not available or do not fit; the request cannot be met.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if request.weights is None:
            model = builder.build(request)
            if norm == "group":
                use_group_norm(model)
        else:
            model = _from_file(builder, replace(request, pretrained=False), norm)
        if lora.rank:
            add_lora(model, lora)
    freeze(model, frozen)
    return model


def _from_file(builder: ModelBuilder, request: ModelRequest, norm: Norm) -> Recognizer:
    """Weights with running statistics come from a network with BatchNorm, so they are loaded before its replacement."""
    assert request.weights is not None
    tensors = read_tensors(request.weights)
    model = builder.build(request)
    swap_first = norm == "group" and not any(name.endswith("running_mean") for name in tensors)
    if swap_first:
        use_group_norm(model)
    load_into(model, tensors, request.weights, builder)
    if norm == "group" and not swap_first:
        use_group_norm(model)
    return model


def builder_named(name: str, parameters: Mapping[str, Any] | None = None) -> ModelBuilder:
    """The builder called `name` ("resnet18", "timm:resnet26") with its own `parameters`.

    Raises:
        ConfigError: unknown name, parameter or value.
    """
    try:
        return models.get(name).build(parameters or {})
    except ValidationError as error:
        keys = [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors()]
        found = [Problem("invalid_value", f"model.{key}", f"model {name}: {key}: {said}") for key, said in keys]
        raise ConfigError(*found) from error
