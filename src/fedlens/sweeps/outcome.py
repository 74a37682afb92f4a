"""What a search has found: a configuration for each method, a row of a table, and a page of what mattered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from fedlens.config.load import dump
from fedlens.core.clean import escape
from fedlens.core.files import write_atomic
from fedlens.core.words import short_names
from fedlens.reports.figures.base import COLOURS, GREY, Figure, blank
from fedlens.reports.headline import headline
from fedlens.reports.load import load_run
from fedlens.reports.page import page, paragraph, plot, section, table
from fedlens.sweeps.methods import Method
from fedlens.sweeps.points import placed
from fedlens.sweeps.search import FAILURE, FOLDER, LABEL, NUMBER, best, finished
from fedlens.sweeps.space import described, samples
from fedlens.tracking.summary import percent

HEAD = ("method", "found", "trials", "stopped", "failed", "validation", "test")
PAGE = "tune.html"
FEWEST_FOR_IMPORTANCE = 4
"""With fewer trials that came to their end, which key mattered is a guess."""


@dataclass(frozen=True)
class Outcome:
    """What a method's search has found. test: accuracy of the best trial's run on the test images, which had no part in
    the search. configuration: the file with the best values; None where no trial came to its end, `failure` tells why
    then."""

    method: Method
    trials: Sequence[FrozenTrial]
    best: FrozenTrial | None
    test: float | None
    folder: Path
    configuration: Path | None
    failure: str

    @property
    def failed(self) -> int:
        return sum(FAILURE in trial.user_attrs for trial in self.trials)

    @property
    def stopped(self) -> int:
        return sum(trial.state is TrialState.PRUNED for trial in self.trials) - self.failed

    @property
    def found(self) -> str:
        """The best values in a few words."""
        return "" if self.best is None else self.method.told(self.method.values(self.best.params))


def outcome_of(method: Method, study: optuna.Study, folder: Path) -> Outcome:
    """What the study has found; writes its configuration into `folder`."""
    trials, winner = finished(study), best(study)
    if winner is None:
        reasons = dict.fromkeys(trial.user_attrs.get(FAILURE, "stopped") for trial in trials)
        return Outcome(method, trials, None, None, folder, None, "; ".join(reasons))
    path = folder / f"{method.file}.yaml"
    config = method.make(method.values(winner.params))
    found = placed(config, dir=config.tracking.dir.parent)
    line = headline(load_run(folder / winner.user_attrs[FOLDER]))
    write_atomic(
        path,
        f"# Found by `fedlens tune`: {winner.user_attrs[LABEL]} of {len(trials)}, validation accuracy "
        f"{percent(winner.value)}.\n{dump(found)}",
    )
    return Outcome(method, trials, winner, line.client_accuracy if line.personal else line.accuracy, folder, path, "")


def row(outcome: Outcome) -> tuple[str, ...]:
    """Its cells under `HEAD`."""
    value = outcome.best.value if outcome.best else None
    counts = (len(outcome.trials), outcome.stopped, outcome.failed)
    return (
        outcome.method.name or "the configuration",
        outcome.found,
        *map(str, counts),
        percent(value),
        percent(outcome.test),
    )


def write_page(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write the page about all methods into `folder`."""
    trials = sum(len(one.trials) for one in outcomes)
    parts = [table(HEAD, [row(one) for one in outcomes], kind="runs"), *map(paragraph, NOTES)]
    for one in outcomes:
        title = one.method.name or "The search"
        parts.append(section(title, *(plot(name, caption, figure) for name, caption, figure in _plots(one))))
    write_atomic(folder / PAGE, page("What a search has found", f"{trials} trials", parts))


NOTES = (
    "Searched by accuracy on the validation images, in each trial's last round; test images had no part in it. The "
    "best of many trials is a little lucky: its validation accuracy is too high by about the noise of one run.",
    "Every method has the same number of trials; one that has none of the searched keys has one. Stopped: below the "
    "median that trials which came to their end had at the same round.",
)


def _plots(one: Outcome) -> Iterator[tuple[str, str, Figure]]:
    label = one.method.name or "all"
    yield f"Trials of {label}", "Each trial's accuracy, and the best so far. Hollow: stopped early.", _history(one)
    weights = _importances(one)
    if weights:
        yield f"What mattered for {label}", "Share of each key in what makes a trial good (PED-ANOVA).", _bars(weights)
    short = short_names(one.method.space)
    for key in one.method.space:
        yield (
            f"{short[key]} of {label}",
            escape(f"Searched: {described(one.method.space[key])}. Hollow: stopped early."),
            _slice(one, key),
        )


def _measured(one: Outcome) -> list[FrozenTrial]:
    return [trial for trial in one.trials if trial.value is not None]


def _history(one: Outcome) -> Figure:
    figure = blank("trial", "validation accuracy")
    found = _measured(one)
    _points(figure, one, found, [trial.user_attrs[NUMBER] for trial in found])
    places, heights, top = [], [], 0.0
    for trial in found:
        if trial.state is TrialState.COMPLETE:
            top = max(top, trial.value or 0.0)
            places.append(trial.user_attrs[NUMBER])
            heights.append(top)
    figure.add_scatter(x=places, y=heights, mode="lines", line={"shape": "hv", "color": GREY}, hoverinfo="skip")
    return figure


def _slice(one: Outcome, key: str) -> Figure:
    distribution = one.method.space[key]
    figure = blank(escape(key), "validation accuracy")
    found = _measured(one)
    values = [one.method.values(trial.params)[key] for trial in found]
    if isinstance(distribution, FloatDistribution | IntDistribution):
        _points(figure, one, found, values)
        ends = [distribution.low, distribution.high]
        if distribution.log:
            return figure.update_xaxes(type="log", range=[math.log10(end) for end in ends])
        return figure.update_xaxes(range=ends)
    _points(figure, one, found, list(map(str, values)))
    listed = list(map(str, samples(distribution)))
    return figure.update_xaxes(type="category", categoryorder="array", categoryarray=listed)


def _points(figure: Figure, one: Outcome, trials: Sequence[FrozenTrial], places: Sequence[Any]) -> None:
    """A dot for each trial; the best one in another colour."""
    whole = [trial.state is TrialState.COMPLETE for trial in trials]
    chosen = [one.best is not None and trial.number == one.best.number for trial in trials]
    figure.add_scatter(
        x=list(places),
        y=[trial.value for trial in trials],
        mode="markers",
        cliponaxis=False,
        marker={
            "size": [13 if it else 9 for it in chosen],
            "color": [COLOURS[4] if it else COLOURS[0] for it in chosen],
            "symbol": ["circle" if it else "circle-open" for it in whole],
        },
        text=[escape(f"{it.user_attrs[LABEL]}: {one.method.told(one.method.values(it.params))}") for it in trials],
        hovertemplate="%{text}<br>%{y:.1%}<extra></extra>",
    )
    figure.update_layout(showlegend=False).update_yaxes(tickformat=".0%")


def _importances(one: Outcome) -> dict[str, float]:
    """Key → its share (Watanabe et al. 2023, "PED-ANOVA"); empty where trials or keys are too few to tell."""
    complete = [trial for trial in one.trials if trial.state is TrialState.COMPLETE]
    alike = len({trial.value for trial in complete}) < 2
    if len(complete) < FEWEST_FOR_IMPORTANCE or len(one.method.space) < 2 or alike:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials(complete)
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())


def _bars(weights: dict[str, float]) -> Figure:
    figure = blank("share", "")
    short = short_names(weights)
    names = [escape(short[key]) for key in reversed(weights)]
    figure.add_bar(x=list(reversed(weights.values())), y=names, orientation="h", marker={"color": COLOURS[0]})
    return figure.update_xaxes(tickformat=".0%", range=[0, 1])
