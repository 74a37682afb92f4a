"""Which clients attack, the same in all rounds, and how their results change before aggregation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from fedlens.aggregation.receivers import Receiver
from fedlens.attacks.base import Attack, AttackContext, Poison
from fedlens.attacks.moments import Moments, RunningMoments
from fedlens.core.seeds import derive
from fedlens.core.types import ClientResult, State
from fedlens.data.types import Rows
from fedlens.transforms.base import ReceivingContext, UpdateTransform


def malicious_clients(names: Sequence[str], fraction: float, seed: int) -> frozenset[str]:
    """The first ⌊fraction · n⌋ clients in a seeded random order."""
    order = np.random.default_rng(derive(seed, "attack", "clients")).permutation(len(names))
    return frozenset(names[index] for index in order[: math.floor(fraction * len(names) + 1e-9)])


@dataclass(frozen=True)
class AttackPlan(UpdateTransform):
    """An attack and the clients that carry it out. As a transform, it replaces the updates of malicious clients with
    crafted ones."""

    name: ClassVar[str] = "attack"

    attack: Attack
    malicious: frozenset[str]
    classes: int
    seed: int

    def poison(self, client: str, rows: Rows) -> Poison | None:
        """Changes to a client's training images; None: no changes."""
        if client not in self.malicious:
            return None
        return self.attack.poison(rows, self.classes, derive(self.seed, "attack", "poison", client))

    def receiver(self, ctx: ReceivingContext) -> Receiver | None:
        return CraftedUpdates(self, ctx.trainable) if self.attack.crafts else None


class CraftedUpdates(Receiver):
    """Passes honest results on at once; holds malicious ones until the round is complete, and passes them on last. Only
    trainable tensors are crafted: running statistics and a strategy's extras stay honest."""

    mergeable: ClassVar[bool] = False

    def __init__(self, plan: AttackPlan, trainable: frozenset[str]) -> None:
        self._plan = plan
        self._trainable = trainable
        self._benign = RunningMoments()
        self._count = 0
        self._weight = 0.0
        self._held: list[ClientResult] = []

    def add(self, result: ClientResult) -> Iterable[ClientResult]:
        self._count += 1
        self._weight += result.report.weight
        if result.client in self._plan.malicious:
            self._held.append(result)
            return ()
        if self._plan.attack.omniscient:
            self._benign.add(self._trained(result))
        return (result,)

    def flush(self) -> Iterable[ClientResult]:
        for result, crafted in zip(self._held, self._crafted(), strict=True):
            yield replace(result, payload={**result.payload, **crafted})

    def _crafted(self) -> Sequence[State]:
        if not self._held:
            return []
        place = derive(self._plan.seed, "attack", "craft", self._held[0].round)
        share = sum(result.report.weight for result in self._held) / self._weight
        ctx = AttackContext(self._count, torch.Generator().manual_seed(place), share, self._known())
        return self._plan.attack.craft([self._trained(result) for result in self._held], ctx)

    def _known(self) -> Moments | None:
        return None if self._benign.empty else self._benign.result()

    def _trained(self, result: ClientResult) -> State:
        return {name: value for name, value in result.payload.items() if name in self._trainable}
