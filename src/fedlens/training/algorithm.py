"""What a run computes, put together from its seams."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedlens.aggregation.base import Rule
from fedlens.aggregation.mean import Mean
from fedlens.attacks.threat import Threat
from fedlens.personalization.base import Personalization
from fedlens.personalization.none import NoPersonalization
from fedlens.strategies.base import Strategy


@dataclass(frozen=True)
class Algorithm:
    """strategy: how clients and server step; personalization: what stays with the clients; rule: how updates are
    combined; threat: which clients of a simulation attack, and how; largest_share: of a step's weight that one client
    may have."""

    strategy: Strategy
    personalization: Personalization = field(default_factory=NoPersonalization)
    rule: Rule = field(default_factory=Mean)
    threat: Threat | None = None
    largest_share: float | None = None

    @property
    def summed(self) -> bool:
        """The total is the weighted mean of what clients report of their updates."""
        crafted = self.threat is not None and self.threat.attack.crafts
        return self.rule.linear and self.largest_share is None and not crafted
