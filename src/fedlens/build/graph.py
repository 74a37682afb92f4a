"""What is told before the first round of a CUDA graph that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedlens.build.experiment import Experiment


def without_graph(experiment: Experiment) -> str | None:
    """A note that no step will be replayed from a CUDA graph although that was asked for; None: there is no need."""
    reason = experiment.trainer.no_graph if experiment.config.runtime.graph is True else None
    return reason and f"runtime.graph=true has no effect, steps are computed as ever: {reason}"
