"""Evaluation on images that only clients have: clients count, and the server adds the counts up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedlens.core.floors import own_majority
from fedlens.core.records import Evaluation
from fedlens.core.types import ClientInfo, ClientResult, Split, Task, TaskSettings
from fedlens.federation.checkpoints import Checkpoint
from fedlens.runtimes.base import Runtime


class FederatedEvaluator:
    """Evaluates a run on the held-out images of every available client: the shared model, or, where parts of it are
    private, each client's personal model.

    Losses and confusion counts add exactly, so the result is that of one set of all images, which stay where they are.
    One batch of tasks asks for all `splits`. `lr`: the clients' learning rate of a round, for personalizations that
    train before they predict.

    personal   each client evaluates its personal model. Only clients that have trained are asked then, as in the
               figures over clients: heads that were never trained would raise the loss until their first round.
    malicious  clients that attack; they are not asked for their own models
    """

    def __init__(
        self,
        runtime: Runtime,
        splits: Sequence[Split],
        lr: Callable[[int], float],
        *,
        personal: bool = False,
        malicious: frozenset[str] = frozenset(),
    ) -> None:
        self._runtime = runtime
        self._splits = splits
        self._lr = lr
        self._personal = personal
        self._malicious = malicious
        self._asked: dict[str, ClientInfo] = {}
        self._scored: Checkpoint | None = None
        self._results: list[ClientResult] = []

    def __call__(self, split: Split, checkpoint: Checkpoint) -> Evaluation | None:
        """None when no client has such images, or none has answered."""
        if checkpoint is not self._scored:
            self._ask(checkpoint)
        results = [result for result in self._results if split in result.payload]
        if not results:
            return None
        losses = [result.report.metrics[f"{split}.loss"] for result in results]
        total = sum(losses[1:], losses[0])
        counts = added([result.payload[split].numpy() for result in results])
        majority = self._own_majority(split, results) if self._personal else None
        return Evaluation(total.value, counts, majority=majority)

    def _own_majority(self, split: Split, results: Sequence[ClientResult]) -> float | None:
        """The majority-class baseline of the clients' personal models, over the images of all of them."""
        floors = [
            (own_majority(self._asked[result.client], split), int(result.payload[split].sum())) for result in results
        ]
        total = sum(images for _, images in floors)
        if not total or any(floor is None for floor, _ in floors):
            return None
        return sum(floor * images for floor, images in floors if floor is not None) / total

    def _takes_part(self, client: ClientInfo, checkpoint: Checkpoint) -> bool:
        if not any(map(client.holds, self._splits)):
            return False
        return not self._personal or (client.name in checkpoint.versions and client.name not in self._malicious)

    def _ask(self, checkpoint: Checkpoint) -> None:
        settings = TaskSettings(lr=self._lr(checkpoint.round), splits=tuple(self._splits))
        clients = [client for client in self._runtime.clients() if self._takes_part(client, checkpoint)]
        self._asked = {client.name: client for client in clients}
        shared, versions = checkpoint.state.shared, checkpoint.versions
        self._runtime.submit(
            Task(name, checkpoint.round, "evaluate_shared", shared, settings, versions.get(name))
            for name in self._asked
        )
        self._results = [outcome for outcome in self._runtime.completed() if isinstance(outcome, ClientResult)]
        self._scored = checkpoint


def added(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The sum of confusion matrices, some of which may have rows and columns for unnamed outputs."""
    total = np.zeros((max(map(len, counts)),) * 2, np.int64)
    for matrix in counts:
        total[: len(matrix), : len(matrix)] += matrix
    return total
