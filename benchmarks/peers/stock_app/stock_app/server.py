"""A plain server: Flower's FedAvg by `start`, so many rounds as the benchmark asks for, in turns.

For turn k the benchmark writes `turn-k` with a number of rounds (0: that was all) into the folder of the run's
configuration, and finds each round's seconds and loss in `done-k`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

NODES = 2

app = ServerApp()


class Timed(FedAvg):
    """FedAvg that notes when each round began."""

    def __init__(self) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.began: list[float] = []

    def configure_train(self, *arguments: Any) -> Iterable[Message]:
        self.began.append(time.perf_counter())
        return super().configure_train(*arguments)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Turns, until there are no more."""
    folder = Path(str(context.run_config["folder"]))
    arrays = first(str(context.run_config["work"]))
    while len(list(grid.get_node_ids())) < NODES:
        time.sleep(0.1)
    for turn in count():
        rounds = asked(folder / f"turn-{turn}")
        if not rounds:
            return
        strategy = Timed()
        result = strategy.start(grid, arrays, num_rounds=rounds)
        stamps = [*strategy.began, time.perf_counter()]
        if len(result.train_metrics_clientapp) < rounds:
            raise RuntimeError("a round had no answers")
        arrays = result.arrays
        done = {
            "seconds": [end - begin for begin, end in pairwise(stamps)],
            "loss": [number(metrics["loss"]) for metrics in result.train_metrics_clientapp.values()],
        }
        (folder / "part").write_text(json.dumps(done))
        (folder / "part").rename(folder / f"done-{turn}")


def number(value: int | float | list[int] | list[float]) -> float:
    """A metric that is one number, as Flower's types cannot say."""
    assert not isinstance(value, list)
    return float(value)


def first(work: str) -> ArrayRecord:
    """The arrays that the first round begins with."""
    if work == "mobilenetv3":
        from stock_app.training import network

        return ArrayRecord(network().state_dict())
    count, size = {"tiny": (1, 10), "large": (10, 2_500_000)}[work]
    return ArrayRecord([np.full(size, number, np.float32) for number in range(count)])


def asked(turn: Path) -> int:
    """The rounds of a turn, once it is there."""
    while not turn.exists():
        time.sleep(0.01)
    return int(turn.read_text())
