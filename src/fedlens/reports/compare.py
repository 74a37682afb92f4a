"""Comparison of runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedlens.core.clean import escape
from fedlens.errors import ConfigError, FedLensError
from fedlens.reports.figures.runs import (
    clients_of_two,
    compared,
    compared_by_communication,
    compared_by_privacy,
    over_seeds,
    traded,
)
from fedlens.reports.group_tables import against, means
from fedlens.reports.group_tables import notes as group_notes
from fedlens.reports.groups import Group, grouped, repeated
from fedlens.reports.headline import Headline, headline
from fedlens.reports.load import LoadedRun, load_run
from fedlens.reports.page import asset, page, paragraph, plot, section, table, warning, write_plot
from fedlens.reports.plotted import COSTS, at_clients, trades
from fedlens.tracking.clients import CLIENT_ACCURACY
from fedlens.tracking.missing_rounds import missing_note
from fedlens.tracking.run_dir import runs_in
from fedlens.tracking.summary import duration, percent
from fedlens.tracking.wording import UNUSED, basis, epsilon

Note = Callable[[str], None]


def warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def compare_runs(folders: Sequence[Path], note: Note = warn) -> list[dict[str, Any]]:
    """One row per run (see `Headline`), oldest first. A folder is a run, or contains runs. `note` is called for runs
    that are left out because their files are damaged, and for reasons why runs are not comparable.

    Raises:
        ConfigError: no run is found.
        FedLensError: none of them can be read.
    """
    return rows_of(load_all(folders, note), note)


def rows_of(found: Sequence[tuple[LoadedRun, Headline]], note: Note = warn) -> list[dict[str, Any]]:
    """As `compare_runs`, of loaded runs."""
    rows = [asdict(line) for _, line in found]
    for doubt in doubts(rows):
        note(doubt)
    return rows


def write_comparison(
    found: Sequence[tuple[LoadedRun, Headline]], path: Path, told: Sequence[str] = (), base: Group | None = None
) -> None:
    """Write a self-contained page about loaded runs: where they differ in their seed alone, the means over seeds; a
    table of all their figures; and plots of their accuracy over virtual time if all have a clock, else over rounds, and
    over communication; methods against their cost, and against each other at every client.

    told  what a reader has to know first
    base  the method that others are held against at every client, if not the first

    Raises:
        ConfigError: none has been evaluated, or the page cannot be written.
    """
    runs, rows = [run for run, _ in found], [asdict(line) for _, line in found]
    named = dict(zip(_names(runs), (run.metrics for run in runs), strict=True))
    curves = section("Accuracy", *_curves(named))
    if not curves:
        raise ConfigError(f"--plot {path}: none of the runs has an accuracy yet", code="incompatible", key="--plot")
    groups = grouped(found)
    means = [*_over_seeds(groups), "<h2>Every run</h2>"] if repeated(groups) else []
    each = [table(*as_table(rows), kind="runs"), *map(paragraph, notes(rows)), curves]
    more = section("Methods side by side", *_side_by_side(groups, base or groups[0]))
    parts = [*map(warning, told), FILTER, *means, *each, more, f"<script>{asset('runs.js')}</script>"]
    write_plot(page("Runs side by side", f"{len(runs)} runs", parts), path)


FILTER = '<p><input id="filter" type="search" placeholder="Show only …" aria-label="Show only"> in tables and plots</p>'


BANDS = "Means over seeds; bands: 95 % intervals of the mean, with three seeds or more."


def _over_seeds(groups: Sequence[Group]) -> Iterator[str]:
    """The means over seeds, the differences to the first group, and the curves of the means."""
    yield table(*means(groups), kind="runs")
    if len(groups) > 1:
        yield table(*against(groups[0], groups), kind="runs")
    yield from map(paragraph, group_notes(groups))
    for title, figure, part in (("Test", "accuracy", "test"), ("Client", "client_accuracy", "clients")):
        measured = [group for group in groups if group.figures(figure)]
        if measured:
            runs = {group.label: [run.metrics for run, _ in group.runs.values()] for group in measured}
            named = f"{title} accuracy over seeds"
            yield section(named, plot(named, BANDS, over_seeds(runs, part), wide=True))


FRONT = "The line joins those that no other beats in both."
TRADES = {
    "megabytes": ("Accuracy and communication", f"Of each method the last accuracy, and all that it sent. {FRONT}"),
    "epsilon": ("Accuracy and privacy", f"Of each method the last accuracy, and the ε that it spent. {FRONT}"),
}
"""Cost → title and caption of its plot."""


def _side_by_side(groups: Sequence[Group], base: Group) -> Iterator[str]:
    """Accuracy against cost, and the other methods against `base` at every client."""
    if len(groups) < 2:
        return
    labels = [group.label for group in groups]
    for cost, (title, caption) in TRADES.items():
        points = trades(groups, cost)
        if len(points) > 1:
            yield plot(title, caption, traded(points, COSTS[cost], labels))
    pairs = {group.label: at_clients(base, group) for group in groups if group is not base}
    pairs = {label: clients for label, clients in pairs.items() if clients}
    if pairs:
        shown = dict(list(pairs.items())[:MOST_PAIRS])
        caption = f"A point for each client and seed. Above the line it is better off than with {base.label}."
        if len(pairs) > MOST_PAIRS:
            caption += f" The first {MOST_PAIRS} of {len(pairs)} methods."
        yield plot("Clients with two methods", escape(caption), clients_of_two(shown, base.label, labels))


MOST_PAIRS = 8
"""As many colours as there are."""

_WIDEST = 80
NAMES = ("run", "model", "strategy", "data", "partition")
FIGURES = ("rounds", "accuracy", "best", "client accuracy", "worst", "MB", "time")
UNUSED_MARK = "*"
_MOST_GROUNDS = 5
VIRTUAL = "virtual time"
"""Table column, present if a run has a clock of simulated clients."""
EPSILON = "ε"
"""Table column, present if a run counts its privacy."""
EDGES = "edges MB"
"""Table column, present if a run has edge aggregators: what went between them and the server."""


def as_table(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header and cells of a table of `compare_runs`' rows: first a run's description, then its figures."""
    more: dict[str, Callable[[Mapping[str, Any]], str]] = {}
    if any(row["edge_megabytes"] is not None for row in rows):
        more[EDGES] = lambda row: "–" if row["edge_megabytes"] is None else f"{row['edge_megabytes']:.1f}"
    if any(row["virtual_seconds"] is not None for row in rows):
        more[VIRTUAL] = _virtual
    if any(row["private"] for row in rows):
        more[EPSILON] = _epsilon
    cells = [
        (*(_short(row[name]) for name in NAMES), *_figures(row), *(cell(row) for cell in more.values())) for row in rows
    ]
    return (*NAMES, *FIGURES, *more), cells


def _short(text: str) -> str:
    """A name shortened for the table; of a path, the end is kept."""
    return text if len(text) <= _WIDEST else f"…{text[1 - _WIDEST :]}"


def _figures(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A run's cells under `FIGURES`."""
    return (
        f"{row['rounds']}/{row['planned_rounds'] or '–'}"
        + ("" if row["status"] == "finished" else f" {row['status']}"),
        _with_half_interval(row, "") + (UNUSED_MARK if row["personal"] and row["accuracy"] is not None else ""),
        percent(row["best_accuracy"]),
        _with_half_interval(row, "client_"),
        percent(row["client_accuracy_worst_tenth"]),
        f"{row['megabytes']:.1f}",
        duration(row["seconds"]),
    )


def _with_half_interval(row: Mapping[str, Any], prefix: str) -> str:
    """84.4 ±2.4 %: the accuracy, and the distance to the farther end of its 95 % interval."""
    accuracy, low, high = (row[f"{prefix}accuracy{end}"] for end in ("", "_low", "_high"))
    if low is None or high is None:
        return percent(accuracy)
    return f"{100 * accuracy:.1f} ±{100 * max(accuracy - low, high - accuracy):.1f} %"


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes on what the figures in the table are measured on, and on the floors to compare them with."""
    lines = [f"{UNUSED_MARK} {UNUSED}"] if any(row["personal"] and row["accuracy"] is not None for row in rows) else []
    if any(row["accuracy_low"] is not None or row["client_accuracy_low"] is not None for row in rows):
        lines.append("±: 95 % interval, of accuracy over images, of client accuracy over clients")
    if any(row["client_accuracy"] is not None for row in rows):
        lines.append("worst: client accuracy of the worst tenth of clients, of fewer than ten clients the worst one")
    return [*lines, *grounds(rows)]


def grounds(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the accuracies were measured on, and what needs no learning."""
    return [*_grounds("accuracy", rows, _test), *_grounds("client accuracy", rows, _clients)]


def _grounds(
    name: str, rows: Sequence[Mapping[str, Any]], figures: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> list[str]:
    """One line for all runs if they were measured on the same images, else one line per group."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if text := basis(figures(row), row["personal"]):
            groups.setdefault(text, []).append(row["run"])
    if len(groups) == 1:
        return [f"{name}: {next(iter(groups))}"]
    if len(groups) > _MOST_GROUNDS:
        return [f"{name}: images and floors differ by run; --csv and --json have them"]
    return [f"{name} of {', '.join(runs)}: {text}" for text, runs in groups.items()]


def _test(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["accuracy"] is None:
        return {}
    return {name: row[name] for name in ("examples", "chance", "majority")}


def _clients(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["client_accuracy"] is None:
        return {}
    floor = {"own_majority" if row["personal"] else "majority": row["client_majority"]}
    return {"examples": row["client_examples"], "evaluated": row["evaluated_clients"], "chance": row["chance"], **floor}


def _virtual(row: Mapping[str, Any]) -> str:
    return "–" if row["virtual_seconds"] is None else duration(row["virtual_seconds"])


def _epsilon(row: Mapping[str, Any]) -> str:
    return epsilon(row["epsilon"]) if row["private"] else "–"


def _curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """The plots for which at least one run has data."""
    tested = {name: metrics for name, metrics in runs.items() if any(line["test"] for line in metrics)}
    at_clients = [sum(bool(line["clients"]) for line in metrics) for metrics in runs.values()]
    if tested:
        figure = compared(tested, "test", "accuracy")
        yield plot("Test accuracy", "Of the shared model, on the global test images.", figure, wide=True)
    if max(at_clients) > 1 or (max(at_clients) and len(tested) < len(runs)):
        figure = compared(runs, "clients", "accuracy")
        yield plot("Client accuracy", CLIENT_ACCURACY, figure, wide=True)
    if tested:
        figure = compared_by_communication(tested)
        yield plot("Test accuracy by communication", "In both directions, since the start.", figure, wide=True)
        figure = compared_by_privacy(tested)
        yield plot(
            "Test accuracy by privacy", "What each run had learnt for the ε that it had spent.", figure, wide=True
        )


def _names(runs: Sequence[LoadedRun]) -> list[str]:
    """A name for each run, with the differing part of its folder, so that names are unique."""
    paths = [run.folder.path.resolve() for run in runs]
    above = os.path.commonpath([path.parent for path in paths])
    return [f"{headline(run).strategy}: {path.relative_to(above)}" for run, path in zip(runs, paths, strict=True)]


def load_all(folders: Sequence[Path], note: Note = warn) -> list[tuple[LoadedRun, Headline]]:
    """The runs in `folders`, oldest first; `note` and errors as `compare_runs`."""
    runs, damaged = [], []
    for place in (run.path for run in runs_in(folders)):
        try:
            run = load_run(place)
            runs.append((run, headline(run)))
        except FedLensError as error:
            damaged.append(str(error))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            damaged.append(f"{place}: its files say something of another form than a run ({error})")
    if not runs:
        raise FedLensError("\n".join(damaged))
    for line in damaged:
        note(f"left out: {line}")
    for run, _ in runs:
        if lost := missing_note(run.missing_rounds):
            note(f"{run.folder.name}: {lost}")
    return runs


def doubts(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Reasons why runs are not comparable: their images differ."""
    data = dict.fromkeys(row["fingerprint"] for row in rows if row["fingerprint"])
    if len(data) > 1:
        groups = (next(row for row in rows if row["fingerprint"] == one) for one in data)
        named = ", ".join(f"{row['run']} ({row['data']})" for row in groups)
        yield f"the runs were trained on different images, so their accuracies do not compare: {named}"
