"""No personalisation: one model for all clients."""

from __future__ import annotations

from dataclasses import dataclass

from fedlens.personalization.base import Personalization, personalizations


@personalizations.register("none", summary="one model for everybody: what the federation trains is what clients use")
@dataclass(frozen=True)
class NoPersonalization(Personalization):
    """Uses the default of every hook."""
