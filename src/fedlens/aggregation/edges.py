"""Edge aggregators: clients send to the edge that they belong to, each edge adds up its own clients' updates, and sends
one sum to the server.

Of hierarchical federated learning this is the tree of sums of Bonawitz et al. 2019, "Towards Federated Learning at
Scale", MLSys, https://arxiv.org/abs/1902.01046 (aggregators below a master aggregator): it changes who sends how much
to whom, and not the result. Edges have no models of their own that they average between two rounds of the server, as in
HierFAVG (Liu et al. 2020, https://arxiv.org/abs/1905.06641).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlens.aggregation.base import AggregatedUpdate, Aggregator
from fedlens.core.seeds import derive
from fedlens.core.types import ClientResult, PartialSum, nbytes

EDGES_UP, EDGES_DOWN = "traffic/edges_up", "traffic/edges_down"
"""Measures of a round: bytes from the edges to the server, and from the server to the edges."""


@dataclass(frozen=True)
class Edges:
    """Which of `number` edges a client belongs to: by a draw for its name, the same in every round."""

    number: int
    seed: int

    def of(self, client: str) -> int:
        return derive(self.seed, "edge", client) % self.number


class EdgeSums(Aggregator):
    """One running sum for each edge that has results; the server adds the sums up."""

    mergeable: ClassVar[bool] = True

    def __init__(self, make: Callable[[], Aggregator], edges: Edges) -> None:
        """`make`: a new aggregator whose sums can be merged, for an edge and for the server."""
        self._make = make
        self._edges = edges
        self._sums: dict[int, Aggregator] = {}

    def add(self, result: ClientResult) -> None:
        self._of(self._edges.of(result.client)).add(result)

    def merge(self, partial: PartialSum) -> None:
        if partial.edge is None:
            raise ValueError("a sum of several edges' clients cannot be divided among them")
        self._of(partial.edge).merge(partial)

    def partial(self, round_number: int) -> PartialSum:
        return self._together(self.partials(round_number)).partial(round_number)

    def partials(self, round_number: int) -> Sequence[PartialSum]:
        return [replace(sums.partial(round_number), edge=edge) for edge, sums in sorted(self._sums.items())]

    def result(self) -> AggregatedUpdate | None:
        sums = self.partials(0)
        total = self._together(sums).result()
        return None if total is None else replace(total, measures={**total.measures, **traffic(sums)})

    def _together(self, sums: Sequence[PartialSum]) -> Aggregator:
        server = self._make()
        for partial in sums:
            server.merge(partial)
        return server

    def _of(self, edge: int) -> Aggregator:
        if edge not in self._sums:
            self._sums[edge] = self._make()
        return self._sums[edge]


def traffic(sums: Sequence[PartialSum]) -> Mapping[str, float]:
    """Bytes between the server and the edges that have sent `sums`. To the server: a sum, which is not encoded. To the
    edge: what it sends on to each of its clients, once."""
    up = sum(nbytes(partial.payload) + nbytes(partial.extra) for partial in sums)
    down = sum(max(_received(partial), default=0.0) for partial in sums)
    return {EDGES_UP: up, EDGES_DOWN: down}


def _received(partial: PartialSum) -> Sequence[float]:
    """Bytes that each client of an edge has got."""
    return [report.metrics["bytes_down"].total for report in partial.reports if "bytes_down" in report.metrics]
