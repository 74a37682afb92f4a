"""The answers of docs/results/: does the sweeps of configs/results/, and writes their tables and figures.

    .venv/bin/python benchmarks/results.py                           # all four: an hour on two cores
    .venv/bin/python benchmarks/results.py strategies
    .venv/bin/python benchmarks/results.py strategies --search       # first: how learning rates were chosen

`configs/results/QUESTION.yaml` is the sweep, and `fedlens sweep --file` does the same runs; what has run in --logs is
not done again. A case is a row of the tables; where cases are named "METHOD, α = ALPHA", METHOD is the row and ALPHA is
the column. The figures of every seed are kept in results/answer-QUESTION.json, the tables stand in
docs/results/QUESTION.md between two comments, and docs/results/QUESTION.svg shows them.

±: half of the 95 % interval of the mean over the seeds, by Student's t. A difference is taken seed by seed, and is bold
where its interval does not hold 0.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import machine

from fedlens.cli.sweep import Before, base_of, run_all
from fedlens.reports.figures.base import COLOURS
from fedlens.reports.headline import headline
from fedlens.reports.load import LoadedRun, load_run
from fedlens.reports.means import Mean
from fedlens.reports.paper import MARKERS, STYLE
from fedlens.sweeps.points import Point, from_file, points
from fedlens.tracking.summary import last_with

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parent.parent
CONFIGS, PAGES = ROOT / "configs" / "results", ROOT / "docs" / "results"
KEPT = ("accuracy", "client_accuracy", "megabytes", "seconds", "epsilon")
"""Figures of `Headline` in the result files."""
FORMS = {"megabytes": ("MB", "{:,.1f}"), "seconds": ("seconds", "{:,.0f}"), "epsilon": ("ε", "{:.1f}")}
"""Costs in a table: heading and form."""
SKEW = ", α = "
"""In the name of a case: before it the row, behind it the column."""

Found = dict[str, dict[str, dict[str, list[Any]]]]
"""Row → column → figure → its value for each seed; the column is empty where a row has one only."""
Tried = dict[str, dict[str, list[float | None]]]
"""Case → what was tried → the loss on the validation images for each seed; None: the run failed, as it diverged."""


@dataclass(frozen=True)
class Question:
    """figure: of `Headline`, what is compared, and its words. bases: the rows that the others are held against. costs:
    what stands beside it. only: the rows of the tables; none: all. across: hold columns against the first one."""

    figure: str
    words: str
    bases: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    across: bool = False

    def rows(self, found: Found) -> Found:
        return {row: cells for row, cells in found.items() if not self.only or row in self.only}


QUESTIONS = {
    "architectures": (Question("accuracy", "test accuracy", ("lenet",), ("megabytes", "seconds")),),
    "strategies": (Question("accuracy", "test accuracy", ("fedavg",), ("megabytes",), across=True),),
    "personalization": (
        Question("client_accuracy", "client accuracy", ("one model for all", "local")),
        Question("accuracy", "test accuracy of the shared model", only=("one model for all",), across=True),
    ),
    "compression-privacy": (
        Question("accuracy", "test accuracy", ("none", "clipped, no noise"), ("megabytes", "epsilon")),
    ),
}
"""What each page has tables of; the figure shows the first."""


# -- the runs ----------------------------------------------------------------------------------------------------------


def sweep(name: str, logs: Path, *, small: bool = False, may_fail: bool = False) -> list[tuple[Point, LoadedRun]]:
    """Do what is left of a sweep; gives all of its runs. small: one round of its first point."""
    file = CONFIGS / f"{name}.yaml"
    more = ["federated.num_rounds=1"] if small else []
    found = points(base_of(None, file), [f"tracking.dir={logs}", *more], from_file(file), name)
    found = found[:1] if small else found
    if (failures := run_all(found, None)) and not may_fail:
        raise SystemExit(f"{len(failures)} runs of {file} failed: {'; '.join(failures)}")
    done = Before(logs / name)
    return [(point, load_run(run.path)) for point in found if (run := done.run_of(point.config))]


def figures(runs: Sequence[tuple[Point, LoadedRun]]) -> Found:
    """The figures of all runs, in the order of the sweep; the seeds are in one order in all of them."""
    found: Found = {}
    for point, run in by_seed(runs):
        row, column = place_of(point)
        cell = found.setdefault(row, {}).setdefault(column, {})
        line = headline(run)
        for name in KEPT:
            cell.setdefault(name, []).append(getattr(line, name))
    return found


def by_seed(runs: Sequence[tuple[Point, LoadedRun]]) -> list[tuple[Point, LoadedRun]]:
    return sorted(runs, key=lambda one: one[0].config.seed)


def case_of(point: Point) -> str:
    """The name of its case: what the label says after the values of the grid."""
    return re.sub(r"^(\S+=\S+ )+", "", point.label)


def place_of(point: Point) -> tuple[str, str]:
    """Row and column of its case."""
    row, _, column = case_of(point).partition(SKEW)
    return row, column


def searched(runs: Sequence[tuple[Point, LoadedRun]]) -> Tried:
    """The losses in the last round."""
    found: Tried = {}
    for point, run in by_seed(runs):
        case, _, what = case_of(point).rpartition(", ")
        last = last_with(run.metrics, "validation") or {}
        found.setdefault(case, {}).setdefault(what, []).append(last.get("loss"))
    return found


# -- the page ----------------------------------------------------------------------------------------------------------


def tables(questions: Sequence[Question], found: Found) -> str:
    """The tables of a page, in Markdown."""
    made = (table for question in questions for table in _tables(question, question.rows(found)))
    return "\n\n".join(made)


def _tables(question: Question, found: Found) -> Iterator[str]:
    if columns_of(found) == [""]:
        yield _rows(question, found)
    else:
        yield from _columns(question, found)


def columns_of(found: Found) -> list[str]:
    return list(next(iter(found.values())))


def _columns(question: Question, found: Found) -> Iterator[str]:
    """Accuracies, then the differences to each base, and to the first column; a column a division."""
    columns = columns_of(found)
    heads = [f"α = {column}" for column in columns]
    costs = [FORMS[cost][0] for cost in question.costs]
    yield markdown(
        [f"{question.words}, %", *heads, *costs],
        [
            [case, *(share(cells[column][question.figure]) for column in columns), *_costs(question, cells[columns[0]])]
            for case, cells in found.items()
        ],
    )
    for base in question.bases:
        yield markdown(
            [f"minus {base}, points", *heads],
            [
                [case, *(_minus(question, cells[column], found[base][column]) for column in columns)]
                for case, cells in found.items()
                if case != base
            ],
        )
    if question.across:
        yield markdown(
            [f"minus {heads[0]}, points", *heads[1:]],
            [
                [case, *(_minus(question, cells[column], cells[columns[0]]) for column in columns[1:])]
                for case, cells in found.items()
            ],
        )


def _rows(question: Question, found: Found) -> str:
    """A row a case: accuracy, differences to the bases, costs."""
    head = [
        "",
        f"{question.words}, %",
        *(f"minus {base}" for base in question.bases),
        *(FORMS[cost][0] for cost in question.costs),
    ]
    rows = []
    for case, cells in found.items():
        minus = ["" if case == base else _minus(question, cells[""], found[base][""]) for base in question.bases]
        rows.append([case, share(cells[""][question.figure]), *minus, *_costs(question, cells[""])])
    return markdown(head, rows)


def _costs(question: Question, cell: Mapping[str, Sequence[Any]]) -> list[str]:
    means = [(FORMS[cost][1], Mean.of(cell[cost])) for cost in question.costs]
    return ["–" if mean is None else form.format(mean.value) for form, mean in means]


def _minus(question: Question, one: Mapping[str, Sequence[Any]], other: Mapping[str, Sequence[Any]]) -> str:
    pairs = zip(one[question.figure], other[question.figure], strict=True)
    mean = Mean.of([value - against for value, against in pairs])
    assert mean is not None
    value = round(100 * mean.value, 1) + 0.0  # no minus zero
    text = f"{value:+.1f}" + ("" if mean.half is None else f" ± {100 * mean.half:.1f}")
    return f"**{text}**" if mean.half is not None and abs(mean.value) > mean.half else text


def share(values: Sequence[float]) -> str:
    mean = Mean.of(values)
    assert mean is not None
    return f"{100 * mean.value:.1f}" + ("" if mean.half is None else f" ± {100 * mean.half:.1f}")


def tried(found: Tried) -> str:
    """A row a case: the mean loss of everything tried, the lowest in bold."""
    rows = []
    for case, losses in found.items():
        lowest = best(losses)
        means = {what: mean_loss(values) for what, values in losses.items()}
        words = (
            (what, f"{what}: {mean:.3f}" if mean < math.inf else f"{what}: failed") for what, mean in means.items()
        )
        rows.append([case, " · ".join(f"**{text}**" if what == lowest else text for what, text in words)])
    return markdown(["", "loss on the validation images"], rows)


def best(losses: Mapping[str, Sequence[float | None]]) -> str:
    """What gave the lowest mean loss."""
    return min(losses, key=lambda what: mean_loss(losses[what]))


def mean_loss(values: Sequence[float | None]) -> float:
    """Infinite where a run failed."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else math.inf


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put(page: Path, mark: str, text: str) -> None:
    """Write `text` between `<!-- mark -->` and `<!-- /mark -->` of a page."""
    old = page.read_text(encoding="utf-8")
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    if old.count(start) != 1 or old.count(end) != 1:
        raise SystemExit(f"{page}: needs {start} and {end} once each; the table stands between them")
    before, _, rest = old.partition(start)
    page.write_text(f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


# -- the figure --------------------------------------------------------------------------------------------------------


def draw(question: Question, found: Found, path: Path) -> None:
    """Accuracy by column, or against the megabytes sent; on white, so that it is legible on a dark page, too."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = dict(STYLE)
    with mpl.rc_context(style):
        drawing = Figure(figsize=(6.4, 3.4), layout="constrained", facecolor="white")
        axes = drawing.add_subplot()
        axes.grid(visible=True, alpha=0.4)
        (_by_cost if columns_of(found) == [""] else _by_column)(axes, question, found)
        axes.set_ylabel(f"{question.words} (%)")
        drawing.legend(loc="outside right upper")
        drawing.savefig(path, metadata={"Date": None})


def _by_column(axes: Axes, question: Question, found: Found) -> None:
    """A line through the means, and a small mark for every seed: runs that collapse are seen."""
    columns = columns_of(found)
    for number, (case, cells) in enumerate(found.items()):
        shift = 0.1 * (number - (len(found) - 1) / 2)
        colour, marker = _look(number)
        for place, cell in enumerate(cells.values()):
            seeds = [100 * value for value in cell[question.figure]]
            axes.plot([place + shift] * len(seeds), seeds, marker, color=colour, markersize=3, alpha=0.5)
        means = [100 * fmean(cell[question.figure]) for cell in cells.values()]
        places = [place + shift for place in range(len(columns))]
        axes.plot(places, means, marker=marker, markersize=5, color=colour, linewidth=0.8, label=case)
    axes.set_xticks(range(len(columns)), [f"α = {column}" for column in columns])


def _by_cost(axes: Axes, question: Question, found: Found) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for number, (case, cells) in enumerate(found.items()):
        mean, sent = Mean.of(cells[""][question.figure]), Mean.of(cells[""]["megabytes"])
        assert mean is not None
        assert sent is not None
        colour, marker = _look(number)
        half = 100 * (mean.half or 0)
        axes.errorbar(
            sent.value, 100 * mean.value, half, fmt=marker, color=colour, markersize=5, elinewidth=1, label=case
        )
    axes.set(xscale="log", xlabel="megabytes sent, both directions")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5) if high < 10 * low else (1, 3)))  # labels have room
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _look(number: int) -> tuple[str, str]:
    """Colour and marker; with more cases than colours, no two cases have both in common."""
    return COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


# -- the command -------------------------------------------------------------------------------------------------------


def answer(name: str, logs: Path) -> None:
    """Do the sweep, keep its figures, and write table and figure of its page."""
    before, questions = machine.facts(), QUESTIONS[name]
    found = figures(sweep(name, logs))
    text = tables(questions, found)
    print(text)
    print(machine.save(f"answer-{name}", before, {"found": found}, small=False))
    draw(questions[0], found, PAGES / f"{name}.svg")
    put(PAGES / f"{name}.md", "table", text)


def search(name: str, logs: Path) -> None:
    """Do the search before a sweep, keep the losses, and write the table of what was tried."""
    before = machine.facts()
    found = searched(sweep(f"{name}-search", logs, may_fail=True))
    print(tried(found))
    print(machine.save(f"answer-{name}-search", before, {"found": found}, small=False))
    put(PAGES / f"{name}.md", "tried", tried(found))


def smallest(name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fedlens-results-") as folder:
        runs = sweep(name, Path(folder), small=True)
        print(json.dumps(figures(runs)))


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}; default: all")
    parser.add_argument("--search", action="store_true", help="the searches before the sweeps, in place of these")
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="folder of the sweeps' folders")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.questions if name not in QUESTIONS]:
        parser.error(f"{', '.join(unknown)}: none of {', '.join(QUESTIONS)}")
    for name in arguments.questions or QUESTIONS:
        if arguments.small:
            smallest(name)
        elif not arguments.search:
            answer(name, arguments.logs)
        elif (CONFIGS / f"{name}-search.yaml").exists():
            search(name, arguments.logs)
    if arguments.small:
        print("figures of the least work are not kept")


if __name__ == "__main__":
    main()
