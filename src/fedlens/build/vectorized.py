"""How many clients of a worker train together, and what is told of it before the first round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedlens.config.blocks import SCHEDULE
from fedlens.config.schema import Config
from fedlens.schedules.base import Asynchronous

if TYPE_CHECKING:
    from fedlens.build.experiment import Experiment


def together(config: Config) -> int:
    """How many clients of a worker train together, as far as the configuration allows it."""
    return 1 if _reason(config) else config.runtime.vectorize


def one_by_one(experiment: Experiment) -> str | None:
    """A note that clients train one after the other although they were to train together; None: there is no need."""
    config = experiment.config
    asked = config.runtime.vectorize
    reason = None if asked == 1 else _reason(config) or experiment.trainer.vectorizing.obstacle
    return reason and f"runtime.vectorize={asked} has no effect, clients train one after the other: {reason}"


def _reason(config: Config) -> str | None:
    """Why tasks of training do not come to a worker in batches that repeat."""
    if isinstance(SCHEDULE.choose(config.schedule), Asynchronous):
        return f"schedule.name={config.schedule.name}: which of them would train together depends on when a run resumes"
    if config.privacy.secure_aggregation:
        return "privacy.secure_aggregation: each client masks its own update in a task of its own"
    return None
