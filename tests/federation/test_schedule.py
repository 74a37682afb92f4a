"""Early stopping and the best model."""

from __future__ import annotations

import numpy as np

from fedlens.core.records import Evaluation
from fedlens.federation.stopping import Progress, StoppingSection


def loss(value: float) -> Evaluation:
    return Evaluation(value, np.eye(2, dtype=np.int64))


def after(losses: list[float], rule: StoppingSection) -> tuple[Progress, list[str | None]]:
    progress, verdicts = Progress(), []
    for number, value in enumerate(losses, start=1):
        progress = progress.after(number, loss(value), rule)
        verdicts.append(progress.verdict(loss(value), rule))
    return progress, verdicts


def test_min_delta_decides_when_to_stop_and_not_which_model_is_best() -> None:
    """1.0 counts; 0.95 and 0.92 are lower by less than 0.1, so patience runs out at 0.92, which is the best loss."""
    progress, verdicts = after([1.0, 0.95, 0.92], StoppingSection(patience=2, min_delta=0.1))
    assert (progress.best_round, progress.best_loss, progress.stale) == (3, 0.92, 2)
    assert verdicts[:2] == [None, None]
    assert verdicts[2] == (
        "validation loss has not improved by more than 0.1 for 2 evaluations (best: round 3, 0.9200)"
    )


def test_small_steps_add_up_to_one_that_counts() -> None:
    progress, _ = after([1.0, 0.95, 0.89], StoppingSection(patience=2, min_delta=0.1))
    assert (progress.stale, progress.counted_loss) == (0, 0.89)


def test_without_min_delta_every_lower_loss_counts() -> None:
    progress, verdicts = after([1.0, 0.9, 0.95, 0.99], StoppingSection(patience=2))
    assert (progress.best_round, progress.stale) == (2, 2)
    assert verdicts[-1] == "validation loss has not improved for 2 evaluations (best: round 2, 0.9000)"
