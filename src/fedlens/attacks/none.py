"""No attack."""

from __future__ import annotations

from dataclasses import dataclass

from fedlens.attacks.base import Attack, attacks


@attacks.register("none", summary="no attack: all clients are honest")
@dataclass(frozen=True)
class NoAttack(Attack):
    """Uses the default of every hook."""
