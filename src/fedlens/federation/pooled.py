"""The shared model on images that only the clients have: they count, the server adds the counts up."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedlens.federation.records import Evaluation
from fedlens.federation.types import Answer, State, Task
from fedlens.runtimes.base import Runtime


class PooledEvaluation:
    """Scores a state on every reachable client's held-out images. Losses and confusion counts add exactly, so this is
    the evaluation of one set that nobody has to bring together."""

    def __init__(self, runtime: Runtime, kind: Literal["evaluate", "validate"]) -> None:
        self._runtime = runtime
        self._kind: Literal["evaluate", "validate"] = kind
        self._asked = 0

    def __call__(self, shared: State) -> Evaluation | None:
        """None when nobody holds such images, or nobody answered."""
        split: Literal["test", "val"] = "test" if self._kind == "evaluate" else "val"
        clients = [client for client in self._runtime.clients() if client.holds(split)]
        self._asked += 1
        settings = {"confusion": 1.0}
        self._runtime.submit(Task(client.name, self._asked, self._kind, shared, settings) for client in clients)
        answers = [outcome for outcome in self._runtime.completed() if isinstance(outcome, Answer)]
        if not answers:
            return None
        loss = sum(answer.report.metrics["loss"].total for answer in answers)
        count = sum(answer.report.metrics["loss"].weight for answer in answers)
        return Evaluation(loss / count, added([answer.payload["confusion"].numpy() for answer in answers]))


def added(
    counts: list[np.ndarray[tuple[int, int], np.dtype[np.int64]]],
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """The sum of confusion matrices, of which some may have rows and columns for unnamed outputs."""
    size = max(len(matrix) for matrix in counts)
    total = np.zeros((size, size), np.int64)
    for matrix in counts:
        total[: len(matrix), : len(matrix)] += matrix
    return total
