"""A search for good values: trials are asked for, their runs are done by the pool, and what they reach is told back.

Only validation counts. A trial's value is the accuracy on the validation images in its last round that measured it. A
trial is stopped where its best accuracy so far is below the median that trials which came to their end had at the same
round (optuna's MedianPruner). With several methods, each has the same number of trials, and the method that has begun
the fewest begins the next one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from fedlens.config.schema import Config
from fedlens.core.files import read_json
from fedlens.errors import ConfigError
from fedlens.sweeps.methods import Method, sampler
from fedlens.sweeps.points import Point, placed
from fedlens.sweeps.screen import SweepScreen
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.summary import percent

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
STOPPED = "stopped by the search"
NUMBER, LABEL, FOLDER, FAILURE = "number", "label", "folder", "failure"
"""What is noted with a trial: its number among those of its method, its name, its run, and why it failed."""


class Known(Protocol):
    """The runs that the search's folder has, by their configurations."""

    def run_of(self, config: Config) -> RunDir | None: ...

    def add(self, run: RunDir) -> None: ...


@dataclass
class Asked:
    """A trial that was asked for and whose value is not told yet. reported: rounds whose accuracy it knows."""

    method: Method
    trial: optuna.Trial
    values: Mapping[str, Any]
    reported: set[int] = field(default_factory=set)
    unwanted: bool = False

    def report(self, number: int, validation: float) -> None:
        if number not in self.reported:
            self.reported.add(number)
            self.trial.report(validation, number)


@dataclass
class Search:
    """The trials of all methods, and the `Screen` of their pool. begun: label → the folder of a run to go on with."""

    studies: Mapping[str, tuple[Method, optuna.Study]]
    trials: int
    seed: int
    known: Known
    screen: SweepScreen
    begun: dict[str, Path] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)

    def points(self) -> Iterator[Point]:
        """The runs that are left, each made when it is taken, from what is known then."""
        for _, study in self.studies.values():
            ask_again(study)
        while (found := self._next()) is not None:
            method, study = found
            number = free_number(study)
            label = method.label(number)
            study.sampler = sampler(self.seed, method, number)
            trial = study.ask(dict(method.space))
            trial.set_user_attr(NUMBER, number)
            trial.set_user_attr(LABEL, label)
            self.asked[label] = asked = Asked(method, trial, method.values(trial.params))
            try:
                config = method.make(asked.values)
            except ConfigError as error:  # each value is valid, and these together are not
                self._settle(label, None, str(error))
                continue
            point = Point(label, placed(config, name=label))
            run = self.known.run_of(point.config)
            if run is not None and run.result.exists():
                self._settle(label, run, None)
                continue
            if run is not None:
                self.begun[label] = run.path
                for line in validations(run):
                    asked.report(*line)
            yield point

    def _next(self) -> tuple[Method, optuna.Study] | None:
        """The method that begins the next trial; None where all trials have begun."""
        left = [pair for pair in self.studies.values() if begun(pair[1]) < planned(pair[0], self.trials)]
        return min(left, key=lambda pair: begun(pair[1]), default=None)

    def unwanted(self, point: Point, number: int, validation: float | None) -> bool:
        """Whether a trial is to end after this round."""
        asked = self.asked[point.label]
        if validation is None:
            return False
        asked.report(number, validation)
        asked.unwanted = number < point.config.federated.num_rounds and asked.trial.should_prune()
        return asked.unwanted

    def ended(self, point: Point, folder: Path | None, failure: str | None) -> None:
        run = RunDir(folder) if folder else None
        if run is not None and self.asked[point.label].unwanted and not run.result.exists():
            give_up(run)
        self._settle(point.label, run, failure)

    def _settle(self, label: str, run: RunDir | None, failure: str | None) -> None:
        """Tell what the trial has reached. A failed one counts as stopped: its values are not worth another try."""
        asked = self.asked.pop(label)
        reached = validations(run) if run else []
        for line in reached:
            asked.report(*line)
        stopped = run is not None and run.result.exists() and read_json(run.result).get("reason") == STOPPED
        trial, study = asked.trial, asked.trial.study
        if run is not None:
            trial.set_user_attr(FOLDER, run.path.name)
            self.known.add(run)
        if failure is None and not reached:
            failure = "no round was validated: data.validation has to be above 0"
        if failure is not None:
            trial.set_user_attr(FAILURE, failure)
        if failure is not None or stopped:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, reached[-1][1])
        accuracy = percent(reached[-1][1] if reached else None)
        rest = f"  stopped in round {reached[-1][0]}" if stopped else ""
        self.screen.told(label, f"{accuracy:>7}  {asked.method.told(asked.values)}{rest}", failure)

    # -- passed on -----------------------------------------------------------------------------------------------------

    def note(self, point: Point, text: str) -> None:
        self.screen.note(point, text)

    def began(self, point: Point, done: int) -> None:
        self.screen.began(point, done)

    def round(self, point: Point, number: int, accuracy: float | None) -> None:
        self.screen.round(point, number, None)

    def working(self, point: Point, label: str, done: int, total: int) -> None:
        self.screen.working(point, label, done, total)

    def wait(self) -> None:
        self.screen.wait()


def planned(method: Method, trials: int) -> int:
    """A method that has none of the searched keys is tried once."""
    return trials if method.space else 1


def begun(study: optuna.Study) -> int:
    """How many trials have begun, without those that were interrupted."""
    return len(study.get_trials(deepcopy=False, states=(*DONE, TrialState.RUNNING)))


def free_number(study: optuna.Study) -> int:
    """The lowest number that no trial has, without those that were interrupted."""
    counted = study.get_trials(deepcopy=False, states=(*DONE, TrialState.RUNNING))
    taken = {trial.user_attrs.get(NUMBER) for trial in counted}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have ended, in order."""
    return study.get_trials(deepcopy=False, states=DONE)


def ask_again(study: optuna.Study) -> None:
    """Trials that were interrupted are begun again with the same values; their runs go on where they stopped."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def best(study: optuna.Study) -> FrozenTrial | None:
    """The trial with the best value; None where none has come to its end."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


def validations(run: RunDir) -> Sequence[tuple[int, float]]:
    """Round → accuracy on the validation images, where it was measured."""
    return [(line["round"], line["validation"]["accuracy"]) for line in read_metrics(run.metrics) if line["validation"]]


def give_up(run: RunDir) -> None:
    """End a run that is not worth going on with; its checkpoints are removed."""
    with run.exclusive_lock():
        run.finish(STOPPED)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
