"""Synchronous rounds: McMahan et al. 2017, https://arxiv.org/abs/1602.05629, Algorithm 1.

With `federated.over_selection`, as in Bonawitz et al. 2019, https://arxiv.org/abs/1902.01046: more clients are selected
than needed, and the first results complete the round.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlens.federation.rounds.base import RoundProtocol, RoundSetup
from fedlens.federation.rounds.synchronous import SynchronousRounds
from fedlens.schedules.base import Schedule, schedules


@schedules.register("sync", summary="rounds: a cohort starts from one model, the server waits for it")
@dataclass(frozen=True)
class Sync(Schedule):
    """The cohort is set under `federated`: `fraction_fit`, `min_fit_clients`, `over_selection`."""

    def protocol(self, setup: RoundSetup) -> RoundProtocol:
        return SynchronousRounds(setup)
