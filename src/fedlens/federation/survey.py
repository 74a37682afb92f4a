"""The shared model on images that only the clients have: they count, the server adds the counts up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlens.federation.records import Evaluation
from fedlens.federation.types import Answer, Split, State, Task
from fedlens.runtimes.base import Runtime


class Survey:
    """Scores a state on the held-out images of every client that can be reached.

    Losses and confusion counts add exactly, so this is the evaluation of one set that nobody has to bring together. All
    `splits` are asked for at once: scoring one state on both costs one exchange.
    """

    def __init__(self, runtime: Runtime, splits: Sequence[Split]) -> None:
        self._runtime = runtime
        self._splits = splits
        self._number = 0
        self._state: State | None = None
        self._answers: list[Answer] = []

    def __call__(self, split: Split, shared: State) -> Evaluation | None:
        """None when nobody holds such images, or nobody answered."""
        if shared is not self._state:
            self._ask(shared)
        answers = [answer for answer in self._answers if split in answer.payload]
        if not answers:
            return None
        losses = [answer.report.metrics[f"{split}.loss"] for answer in answers]
        total = sum(losses[1:], losses[0])
        return Evaluation(total.value, added([answer.payload[split].numpy() for answer in answers]))

    def _ask(self, shared: State) -> None:
        self._number += 1
        settings: dict[str, float] = dict.fromkeys(map(str, self._splits), 1.0)
        clients = [client for client in self._runtime.clients() if any(map(client.holds, self._splits))]
        self._runtime.submit(Task(client.name, self._number, "count", shared, settings) for client in clients)
        self._answers = [outcome for outcome in self._runtime.completed() if isinstance(outcome, Answer)]
        self._state = shared


def added(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The sum of confusion matrices, some of which may have rows and columns for unnamed outputs."""
    total = np.zeros((max(map(len, counts)),) * 2, np.int64)
    for matrix in counts:
        total[: len(matrix), : len(matrix)] += matrix
    return total
