"""A plugin: the rule `flower_clipping` hands each round's updates to Flower's server-side fixed clipping.

Flower's own class clips the updates, has its FedAvg take their mean, and adds the noise. FedLens does the rest, so that
a run differs from others in this alone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, ClassVar
from unittest.mock import Mock

import numpy as np
import torch
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from pydantic import Field

from fedlens.aggregation.base import AggregatedUpdate, AggregationRule, Aggregator, rules
from fedlens.core.types import ClientResult, PartialSum

logging.getLogger("flwr").setLevel(logging.ERROR)  # it tells of every client


@rules.register("flower_clipping", summary="Flower's server-side fixed clipping, with its noise")
@dataclass(frozen=True)
class FlowerClipping(AggregationRule):
    """Flower's `DifferentialPrivacyServerSideFixedClipping` around its FedAvg."""

    sigma: Annotated[float, Field(ge=0, description="standard deviation of the noise, divided by clip")] = 1.0
    clip: Annotated[float, Field(gt=0, description="largest L2 norm of an update")] = 1.0
    clients: Annotated[int, Field(gt=0, description="clients in a round, as Flower is told")] = 100
    linear: ClassVar[bool] = True

    def aggregator(self, trainable: frozenset[str]) -> Aggregator:
        flower = DifferentialPrivacyServerSideFixedClipping(FedAvg(), self.sigma, self.clip, self.clients)
        return FlowerAggregator(flower)


class FlowerAggregator(Aggregator):
    """Gives Flower updates in place of models: it clips differences from the round's model, and that is zero here."""

    mergeable: ClassVar[bool] = False

    def __init__(self, flower: DifferentialPrivacyServerSideFixedClipping) -> None:
        self._flower = flower
        self._results: list[ClientResult] = []

    def add(self, result: ClientResult) -> None:
        self._results.append(result)

    def merge(self, partial: PartialSum) -> None:
        raise TypeError("Flower's class needs every update by itself")

    def partial(self, round_number: int) -> PartialSum:
        raise TypeError("Flower's class needs every update by itself")

    def result(self) -> AggregatedUpdate | None:
        if not self._results:
            return None
        names = list(self._results[0].payload)
        arrays = [[result.payload[name].numpy() for name in names] for result in self._results]
        self._flower.current_round_params = [np.zeros_like(array) for array in arrays[0]]
        weights = [result.report.weight for result in self._results]
        answers: list[tuple[ClientProxy, FitRes]] = [
            (Mock(spec=ClientProxy), FitRes(Status(Code.OK, ""), ndarrays_to_parameters(part), int(weight), {}))
            for part, weight in zip(arrays, weights, strict=True)
        ]
        parameters, _ = self._flower.aggregate_fit(self._results[0].round, answers, [])
        assert parameters is not None
        means = [np.array(array, np.float32) for array in parameters_to_ndarrays(parameters)]
        delta = {name: torch.from_numpy(mean) for name, mean in zip(names, means, strict=True)}
        return AggregatedUpdate(delta, {}, sum(weights), len(self._results))
