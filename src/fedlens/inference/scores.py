"""The models of finished runs on the same images: the shared one, and those that clients use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedlens.build.experiment import Experiment
from fedlens.build.inputs import inputs_of
from fedlens.data.types import Rows
from fedlens.inference.personal import load_own, reopened
from fedlens.tracking.run_dir import RunDir
from fedlens.training.device import enough_memory
from fedlens.training.evaluation import evaluate


@dataclass(frozen=True)
class Score:
    """right: of so many images."""

    right: int
    images: int

    @property
    def accuracy(self) -> float:
        return self.right / self.images


Scores = Mapping[str, Score]
"""Name of a set of images → the score of one model on it. A set without images has none."""


@enough_memory()
def shared_scores(run: RunDir, rows: Mapping[str, Rows]) -> Scores:
    """The run's shared model, as it was after its last round; empty where parts of it stay with the clients.

    Raises:
        ModelError: no finished round, or the images are others.
    """
    experiment, checkpoint = reopened(run)
    if experiment.partly_private:
        return {}
    experiment.resident.load(checkpoint.state.shared)
    return _scores(experiment, rows)


@enough_memory()
def own_scores(
    run: RunDir, rows: Mapping[str, Mapping[str, Rows]], seen: Callable[[int, int], None]
) -> dict[str, Scores]:
    """For each client, the scores of the model that it uses; clients that were never sampled are left out.

    rows  client → the sets of images to try its model on
    seen  called with (clients done, clients in all)

    Raises:
        ModelError: no finished round, or the images are others.
    """
    experiment, checkpoint = reopened(run)
    names = [client.name for client in experiment.images.clients if client.name in checkpoint.versions]
    found = {}
    for number, name in enumerate(names, start=1):
        load_own(experiment, checkpoint, name)
        found[name] = _scores(experiment, rows[name])
        seen(number, len(names))
    return found


def _scores(experiment: Experiment, rows: Mapping[str, Rows]) -> Scores:
    memory = experiment.config.memory
    found = {}
    for name, own in rows.items():
        if len(own):
            result = evaluate(
                experiment.resident.module,
                inputs_of(experiment, own),
                experiment.classes,
                precision=memory.precision,
                batch_size=memory.micro_batch,
            )
            found[name] = Score(int(result.confusion.trace()), result.examples)
    return found
