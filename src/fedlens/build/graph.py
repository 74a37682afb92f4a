"""What is told before the first round of a CUDA graph that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedlens.build.vectorized import one_by_one

if TYPE_CHECKING:
    from fedlens.build.experiment import Experiment


def without_graph(experiment: Experiment) -> str | None:
    """A note that no step will be replayed from a CUDA graph although that was asked for; None: there is no need."""
    runtime = experiment.config.runtime
    if runtime.graph is not True:
        return None
    together = runtime.vectorize > 1 and not one_by_one(experiment)
    reason = "runtime.vectorize trains clients together" if together else experiment.trainer.no_graph
    return reason and f"runtime.graph=true has no effect, steps are computed as ever: {reason}"
