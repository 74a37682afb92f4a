"""The attack seam: what malicious clients train on, and what they send in place of an honest update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlens.attacks.moments import Moments
from fedlens.core.registry import Registry
from fedlens.core.types import State
from fedlens.data.types import FederatedData, Rows

Poison = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(row numbers (B,), images as they are stored (B, …), labels (B,)) → the images and labels in their place; it may
overwrite those that it is given."""


@dataclass(frozen=True)
class AttackContext:
    """What the malicious clients of a round know when they make their updates up.

    answers  how many updates the server gets, theirs included
    share    the malicious clients' part of the sum of all answers' weights
    benign   of the other clients' updates (trainable tensors only), where the attack is `omniscient`; None: nobody else
             answered
    """

    answers: int
    generator: torch.Generator
    share: float
    benign: Moments | None = None


@dataclass(frozen=True)
class Trigger:
    """What a backdoor waits for: `stamp` puts it on every image, and `target` as the label."""

    target: int
    stamp: Poison


class Attack:
    """One attack. The dataclass' fields are its configuration keys under `attack`.

    crafts      it replaces what malicious clients send (`craft`), and not only what they train on
    omniscient  its malicious clients also know mean and deviation of the others' updates (`Scene.benign`), which takes
                two more models in memory
    """

    crafts: ClassVar[bool] = False

    @property
    def omniscient(self) -> bool:
        return False

    def poison(self, rows: Rows, classes: int, seed: int) -> Poison | None:
        """What becomes of a malicious client's training images, `rows`; None: nothing."""
        return None

    def craft(self, honest: Sequence[State], ctx: AttackContext) -> Sequence[State]:
        """What each malicious client sends, from what all of them would send (trainable tensors only)."""
        return honest

    def trigger(self) -> Trigger | None:
        """The backdoor's trigger; None: the attack is none."""
        return None

    def incompatibility(self, data: FederatedData) -> str | None:
        """Why it cannot work on these images, beginning with the key that says so ("target = 12: …"); None: it can."""
        return None


attacks: Registry[Attack] = Registry("attack", "fedlens.attacks")
