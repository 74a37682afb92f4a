"""Who attacks: the same clients all run long, and what comes of their answers before the rule sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NoReturn

import numpy as np
import torch

from fedlens.aggregation.base import Aggregator, Total
from fedlens.attacks.base import Attack, Poison, Scene
from fedlens.attacks.moments import Moments, RunningMoments
from fedlens.data.types import Rows
from fedlens.federation.types import Answer, Partial, State
from fedlens.seeds import derive


def malicious_clients(names: Sequence[str], fraction: float, seed: int) -> frozenset[str]:
    """The first ⌊fraction · n⌋ of a seeded order of the clients."""
    order = np.random.default_rng(derive(seed, "attack", "clients")).permutation(len(names))
    return frozenset(names[index] for index in order[: math.floor(fraction * len(names) + 1e-9)])


@dataclass(frozen=True)
class Threat:
    """An attack and who makes it."""

    attack: Attack
    malicious: frozenset[str]
    classes: int
    seed: int

    def poison(self, client: str, rows: Rows) -> Poison | None:
        """What becomes of a client's training images; None: nothing."""
        if client not in self.malicious:
            return None
        return self.attack.poison(rows, self.classes, derive(self.seed, "attack", "poison", client))

    def around(self, aggregator: Aggregator, trainable: frozenset[str]) -> Aggregator:
        """`aggregator`, given the malicious clients' answers as the attack makes them up."""
        return Attacked(aggregator, self, trainable) if self.attack.crafts else aggregator


class Attacked(Aggregator):
    """Honest answers pass; malicious ones wait until all are there, and go last. What is made up are trainable tensors:
    running statistics and a strategy's extras stay honest.
    """

    mergeable: ClassVar[bool] = False

    def __init__(self, inner: Aggregator, threat: Threat, trainable: frozenset[str]) -> None:
        self._inner = inner
        self._threat = threat
        self._trainable = trainable
        self._benign = RunningMoments()
        self._count = 0
        self._weight = 0.0
        self._held: list[Answer] = []

    def add(self, answer: Answer) -> None:
        self._count += 1
        self._weight += answer.report.weight
        if answer.client in self._threat.malicious:
            self._held.append(answer)
            return
        if self._threat.attack.omniscient:
            self._benign.add(self._trained(answer))
        self._inner.add(answer)

    def merge(self, partial: Partial) -> NoReturn:
        raise TypeError("an attack needs every answer by itself")

    def partial(self, round_number: int) -> NoReturn:
        raise TypeError("an attack needs every answer by itself")

    def result(self) -> Total | None:
        for answer, crafted in zip(self._held, self._crafted(), strict=True):
            self._inner.add(replace(answer, payload={**answer.payload, **crafted}))
        return self._inner.result()

    def _crafted(self) -> Sequence[State]:
        if not self._held:
            return []
        place = derive(self._threat.seed, "attack", "craft", self._held[0].round)
        share = sum(answer.report.weight for answer in self._held) / self._weight
        scene = Scene(self._count, torch.Generator().manual_seed(place), share, self._known())
        return self._threat.attack.craft([self._trained(answer) for answer in self._held], scene)

    def _known(self) -> Moments | None:
        return None if self._benign.empty else self._benign.result()

    def _trained(self, answer: Answer) -> State:
        return {name: value for name, value in answer.payload.items() if name in self._trainable}
