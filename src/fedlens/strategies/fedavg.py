"""FedAvg: McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, https://arxiv.org/abs/1602.05629, Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass

from fedlens.strategies.base import Strategy, strategies


@strategies.register("fedavg", summary="the baseline: average the clients' models, weighted by their images")
@dataclass(frozen=True)
class FedAvg(Strategy):
    """The shared loop and the weighted mean, as they are."""
