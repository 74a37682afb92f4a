"""A client's side of a strategy with a model of two numbers: w, which is trained, and the running statistic s."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tests.helpers import tiny_model

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.aggregation.mean import WeightedMean
from fedlens.core.types import ClientReport, ClientResult
from fedlens.strategies.base import ClassFeatures, ClientContext, RoundContext, ServerState, Strategy

MODULE = tiny_model()
START = {"w": torch.tensor([1.0]), "s": torch.tensor([5.0])}


def server(population: int = 4, cohort: int = 2) -> RoundContext:
    return RoundContext(round=1, num_rounds=2, population=population, cohort=cohort, trainable=frozenset({"w"}))


def local(**changes: Any) -> ClientContext:
    """What a client knows at w = 1; by default after one step of plain SGD on ten images with a loss of 1."""
    values: dict[str, Any] = {
        "round": 1,
        "client": "a",
        "examples": 10,
        "steps": 1,
        "lr": 0.5,
        "momentum": 0.0,
        "start": START["w"].clone(),
        "module": MODULE,
        "loss": 1.0,
        "received": {},
        "client_state": {},
        "class_features": lambda: ClassFeatures(torch.ones(2, 3), torch.ones(2)),
        "flatten": lambda state: state.get("w", torch.zeros(1)).clone(),
        "unflatten": lambda vector: {"w": vector},
    }
    return ClientContext(**(values | changes))


def moved(w: float, s: float = 0.0) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([w]), "s": torch.tensor([s])}


def total_of(
    strategy: Strategy, clients: Sequence[tuple[ClientContext, Mapping[str, torch.Tensor]]]
) -> AggregatedUpdate:
    """What the server gets of clients that end with these contexts and updates."""
    mean = WeightedMean()
    for ctx, delta in clients:
        done = strategy.finish(ctx, delta)
        mean.add(ClientResult(1, "train", ClientReport(ctx.client, done.weight, {}), done.payload, done.extra))
    total = mean.result()
    assert total is not None and not math.isnan(total.weight)
    return total


def received(strategy: Strategy, state: ServerState, ctx: RoundContext) -> dict[str, torch.Tensor]:
    """What the strategy sends beyond the model."""
    return {name: value for name, value in strategy.broadcast(state, ctx).items() if name not in state.shared}
