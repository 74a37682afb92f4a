"""How a run's models are evaluated: here on the server's images, or by the clients on theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fedlens.build.builders import build_plan
from fedlens.build.experiment import Experiment
from fedlens.build.inputs import inputs_of
from fedlens.core.records import Evaluation
from fedlens.data.types import Rows
from fedlens.federation.checkpoints import Checkpoint
from fedlens.federation.coordinator import Evaluate, Measure
from fedlens.federation.cross_site import CrossSiteEvaluation
from fedlens.federation.evaluator import FederatedEvaluator
from fedlens.runtimes.base import Runtime
from fedlens.training.evaluation import Seen, evaluate, unseen


@dataclass(frozen=True)
class Scoring:
    """How the shared model is scored on test and on validation images, and what else is measured of it; None where
    there are none."""

    test: Evaluate | None
    validation: Evaluate | None
    measure: Measure | None = None
    tests_here: bool = True
    """The test images are the server's; else they are the clients'."""

    def by_server(self) -> Scoring:
        """The scoring on images that are not the clients': validation images always are."""
        return replace(self, test=self.test if self.tests_here else None, validation=None)


def shared_model_scorer(experiment: Experiment, rows: Rows, seen: Seen = unseen) -> Evaluate | None:
    """Evaluates a run's shared model on `rows`, and reports progress to `seen`; None without rows, or where parts of
    the model stay with the clients."""
    if experiment.partly_private or not len(rows):
        return None
    examples, memory = inputs_of(experiment, rows), experiment.config.memory

    def score(checkpoint: Checkpoint) -> Evaluation:
        experiment.resident.load(checkpoint.state.shared)
        return evaluate(
            experiment.resident.module,
            examples,
            experiment.classes,
            precision=memory.precision,
            batch_size=memory.micro_batch,
            ranked=True,
            seen=seen,
        )

    return score


def cross_site_evaluation(
    experiment: Experiment, runtime: Runtime, spool: Path, note: Callable[[str], None]
) -> CrossSiteEvaluation:
    """Clients predict with the learning rate of the round reached. Where they train the shared model once more it is
    that of the configuration, because a schedule may have come to its end."""
    config, own = experiment.config, experiment.trainer.has_own_model
    return CrossSiteEvaluation(
        runtime,
        own=own,
        shared=not experiment.partly_private,
        lr=build_plan(config).lr if own else lambda _round: config.optimizer.lr,
        except_for=experiment.malicious,
        spool=spool,
        note=note,
    )


def scoring_by_clients(experiment: Experiment, runtime: Runtime) -> Scoring:
    """Scoring where parts of the model are private. There is no test accuracy, for there is no complete shared model.
    Validation is that of the personal models of clients that have trained and do not attack, on their own images."""
    lr, malicious = build_plan(experiment.config).lr, experiment.malicious
    evaluator = FederatedEvaluator(runtime, ("val",), lr, personal=True, malicious=malicious)
    return Scoring(None, partial(evaluator, "val"))
