"""The attack interface: what malicious clients train on, and what they send instead of an honest update."""

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
"""(row numbers (B,), stored images (B, …), labels (B,)) → images and labels that replace them; may overwrite its
arguments."""


@dataclass(frozen=True)
class AttackContext:
    """What the malicious clients of a round know when they craft their updates.

    results  number of updates that the server receives, including theirs
    share    the malicious clients' part of the total weight
    benign   mean and deviation of the other clients' updates (trainable tensors only), if the attack is `omniscient`;
             None if there are no others
    """

    results: int
    generator: torch.Generator
    share: float
    benign: Moments | None = None


@dataclass(frozen=True)
class Trigger:
    """A backdoor's trigger: `stamp` adds it to every image; `target` is the label that it causes."""

    target: int
    stamp: Poison


class Attack:
    """One attack. The fields of the dataclass are its configuration keys under `attack`.

    crafts      it replaces the updates of malicious clients (`craft`), not only their training images
    omniscient  it also uses mean and deviation of the other clients' updates (`AttackContext.benign`), which needs the
                memory of two more models
    """

    crafts: ClassVar[bool] = False

    @property
    def omniscient(self) -> bool:
        return False

    def poison(self, rows: Rows, classes: int, seed: int) -> Poison | None:
        """Changes to a malicious client's training images, `rows`; None: no changes."""
        return None

    def craft(self, honest: Sequence[State], ctx: AttackContext) -> Sequence[State]:
        """What each malicious client sends, given the honest updates of all malicious clients (trainable tensors
        only)."""
        return honest

    def trigger(self) -> Trigger | None:
        """The backdoor's trigger; None if the attack is not a backdoor."""
        return None

    def incompatibility(self, data: FederatedData, /) -> str | None:
        """Why the attack cannot work on these images: a line that starts with its key at fault ("target = 12: …"); None
        if it can."""
        return None


attacks: Registry[Attack] = Registry("attack", "fedlens.attacks")
