"""How far the updates of a round agree, measured without storing them.

The updates' directions uᵢ = Δᵢ / ‖Δᵢ‖ are added up as well: one more sum of the model's size, which workers can merge
like any other. With U = Σ uᵢ over n clients and the combined update Δ:

    Σᵢ cos(Δᵢ, Δ) / n           = U · Δ / (n ‖Δ‖)
    Σᵢ≠ⱼ cos(Δᵢ, Δⱼ) / (n(n−1)) = (‖U‖² − n) / (n(n−1))

An update of length 0 has no direction, and does not count in n.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.aggregation.norms import l2_norm, norm_on_device
from fedlens.aggregation.receivers import Receiver
from fedlens.core.types import ClientResult, State
from fedlens.transforms.base import ReceivingContext, UpdateTransform

PREFIX = "direction/"
COUNT = f"{PREFIX}count"


class Directions(UpdateTransform):
    """Measures the agreement; updates stay as they are."""

    name = "directions"
    any_device = True

    def receiver(self, ctx: ReceivingContext) -> Receiver:
        return SummedDirections(ctx.trainable)


class SummedDirections(Receiver):
    """Adds the directions up, as extras that strategies do not see."""

    def __init__(self, trainable: frozenset[str]) -> None:
        """`trainable`: running statistics have no part in directions."""
        self._trainable = sorted(trainable)

    def add(self, result: ClientResult) -> Iterable[ClientResult]:
        return (replace(result, extra={**result.extra, **self._direction(result.payload)}),)

    def finish(self, total: AggregatedUpdate) -> AggregatedUpdate:
        own = {name: value for name, value in total.extra.items() if not name.startswith(PREFIX)}
        return replace(total, extra=own, measures={**total.measures, **self._agreement(total)})

    def _direction(self, payload: State) -> dict[str, torch.Tensor]:
        """Zeros for an update of length 0: whether it is one is not asked, because that would wait for the device."""
        own = [payload[name] for name in self._trainable]
        if not own:
            return {}
        length = norm_on_device(own)
        known = length > 0
        unit = torch._foreach_div(own, torch.where(known, length, 1.0))
        names = (f"{PREFIX}{name}" for name in self._trainable)
        return {**dict(zip(names, unit, strict=True)), COUNT: known.float()}

    def _agreement(self, total: AggregatedUpdate) -> Mapping[str, float]:
        """`total.extra` holds means over all results."""
        if COUNT not in total.extra:
            return {}
        n = round(float(total.extra[COUNT]) * total.count)
        if not n:
            return {}
        directions = {name: total.extra[f"{PREFIX}{name}"] * (total.count / n) for name in self._trainable}
        combined = [name for name in self._trainable if name in total.delta]
        mean, length = l2_norm(directions.values()), l2_norm(total.delta[name] for name in combined)
        found = {}
        if length:
            along = sum(float((directions[name] * total.delta[name]).sum()) for name in combined)
            found["cosine/to_mean"] = along / length
        if n > 1:
            found["cosine/pairwise"] = (n * mean**2 - 1) / (n - 1)
        return found
