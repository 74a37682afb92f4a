"""Made-up answers for tests of rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedlens.aggregation.base import AggregatedUpdate, AggregationRule, Aggregator
from fedlens.core.types import ClientReport, ClientResult, State
from fedlens.transforms.base import ReceivingContext, TransformChain, UpdateTransform

TRAINABLE = frozenset({"conv", "bias"})


def answer(name: str, payload: State, weight: float = 1.0, extra: State | None = None) -> ClientResult:
    return ClientResult(1, "train", ClientReport(name, weight, {}), payload, extra or {})


def behind(transform: UpdateTransform, aggregator: Aggregator, trainable: frozenset[str] = TRAINABLE) -> Aggregator:
    """`aggregator` behind the transform's receiver."""
    return TransformChain((transform,)).around(aggregator, ReceivingContext(1, trainable))


def total(rule: AggregationRule, payloads: Sequence[State], weights: Sequence[float] | None = None) -> AggregatedUpdate:
    """What `rule` makes of the updates."""
    aggregator = rule.aggregator(TRAINABLE & payloads[0].keys())
    for index, payload in enumerate(payloads):
        aggregator.add(answer(f"client{index}", payload, weights[index] if weights else 1.0))
    result = aggregator.result()
    assert result is not None
    return result


def points(*coordinates: Sequence[float]) -> list[State]:
    """Updates of one trainable tensor, `bias`, with these values."""
    return [{"bias": torch.tensor(values, dtype=torch.float32)} for values in coordinates]


def random_updates(count: int, seed: int = 0, spread: float = 0.1) -> list[State]:
    """Honest updates of a small model around one direction: two trainable tensors, one running statistic."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv": (5, 3, 3, 3), "bias": (7,), "running_var": (5,)}
    center = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return [
        {name: value + spread * torch.randn(value.shape, generator=generator) for name, value in center.items()}
        for _ in range(count)
    ]


def matrix(updates: Sequence[State], names: frozenset[str] = TRAINABLE) -> np.ndarray:
    """(n, P) the updates' tensors called `names`, flat, in double precision."""
    return np.stack([np.concatenate([u[name].double().numpy().ravel() for name in sorted(names)]) for u in updates])


def flat(delta: State, names: frozenset[str] = TRAINABLE) -> np.ndarray:
    (row,) = matrix([delta], names)
    return row
