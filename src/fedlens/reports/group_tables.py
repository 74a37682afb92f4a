"""Groups of runs as tables: for the terminal, a page, and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import partial
from statistics import fmean

from fedlens.reports.groups import FEWEST_PAIRS, Difference, Group, Reached, differences, measure, ranks, reached
from fedlens.reports.means import Mean
from fedlens.tracking.intervals import FEWEST
from fedlens.tracking.summary import duration, percent
from fedlens.tracking.wording import epsilon

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""The header, and the cells of each row."""

NAMED = {"accuracy": "accuracy", "client_accuracy": "client accuracy"}

MODALITIES = {
    "image_only_accuracy": "by image",
    "text_only_accuracy": "by text",
    "zero_shot_accuracy": "held-out classes",
    "found_by_text": "found by text",
}
"""Figures that only models of images and texts have."""


def means(groups: Sequence[Group]) -> Table:
    """A row for each group: its seeds, and the means of its figures over them."""
    columns: dict[str, Callable[[Group], str]] = {
        "seeds": lambda group: str(len(group.runs)),
        "accuracy": lambda group: share(group.mean("accuracy")),
        "best": lambda group: share(group.mean("best_accuracy")),
        "client accuracy": lambda group: share(group.mean("client_accuracy")),
        "worst": lambda group: share(group.mean("client_accuracy_worst_tenth")),
        "MB": lambda group: plain(group.mean("megabytes"), "{:.1f}".format),
        "time": lambda group: plain(group.mean("seconds"), duration),
    }
    lines = [line for group in groups for line in group.lines]
    for figure, title in MODALITIES.items():
        if any(getattr(line, figure) is not None for line in lines):
            columns[title] = partial(_share_of, figure)
    if any(line.edge_megabytes is not None for line in lines):
        columns["edges MB"] = lambda group: plain(group.mean("edge_megabytes"), "{:.1f}".format)
    if any(line.virtual_seconds is not None for line in lines):
        columns["virtual time"] = lambda group: plain(group.mean("virtual_seconds"), duration)
    if any(line.private for line in lines):
        columns["ε"] = _epsilon
    placed = ranks(groups, measure(groups)) if len(groups) > 1 else {}
    if placed:
        columns["rank"] = lambda group: f"{placed[group.label]:.2g}"
    return ("runs", *columns), [(group.label, *(cell(group) for cell in columns.values())) for group in groups]


def against(base: Group, groups: Sequence[Group]) -> Table:
    """A row for each other group: by how much it differs from `base`, on the same seeds."""
    figure = measure(groups)
    found = differences(base, groups, figure)
    tested = any(one.p is not None for one in found)
    head = (f"{NAMED[figure]} minus that of {base.label}", "seeds", "difference", *(["p"] if tested else []))
    return head, [_difference(one)[: len(head)] for one in found]


def to_target(groups: Sequence[Group], target: float) -> Table:
    """A row for each group: in how many seeds it reached the target, and what that took on average in these."""
    figure = measure(groups)
    head = (f"to {NAMED[figure]} {percent(target)}", "reached", "round", "MB", "time", "virtual time", "ε")
    rows = []
    for group in groups:
        took = [found for run, _ in group.runs.values() if (found := reached(run, target, figure))]
        rows.append((group.label, f"{len(took)} of {len(group.runs)}", *_took(took)))
    kept = [place for place in range(len(head)) if place < 5 or any(row[place] != "–" for row in rows)]
    return tuple(head[place] for place in kept), [tuple(row[place] for place in kept) for row in rows]


def notes(groups: Sequence[Group]) -> list[str]:
    """What the figures are."""
    told = ["means over seeds; ±: 95 % interval of the mean if other seeds were drawn (Student's t)"]
    if any(len(group.runs) < FEWEST for group in groups):
        told[0] += f", with {FEWEST} seeds or more"
    if len(groups) > 1:
        told.append("rank: the mean over the seeds that all have, 1 being the best")
        told.append(f"p: Wilcoxon's signed-rank test of the pairs of seeds, with {FEWEST_PAIRS} pairs or more")
    if replaced := sum(group.replaced for group in groups):
        told.append(f"of equal seeds the last run counts; earlier ones that do not: {replaced}; --runs shows them")
    unfinished = [line.run for group in groups for line in group.lines if line.status != "finished"]
    if unfinished:
        told.append(f"not finished, and counted as they are: {', '.join(unfinished)}")
    return told


def latex(groups: Sequence[Group]) -> str:
    """A table in LaTeX, for the package booktabs. In the column that is compared the best mean is bold, and those whose
    interval reaches it are underlined."""
    (head, rows), figure = means(groups), measure(groups)
    found = [group.mean(figure) for group in groups]
    best = max((mean.value for mean in found if mean), default=None)
    marked = head.index(NAMED[figure])
    lines = []
    for row, mean in zip(rows, found, strict=True):
        cells = [escaped(cell) for cell in row]
        if mean and best is not None:
            near = mean.half is not None and mean.value + mean.half >= best
            command = "textbf" if mean.value == best else "underline" if near else ""
            cells[marked] = f"\\{command}{{{cells[marked]}}}" if command else cells[marked]
        lines.append(" & ".join(cells) + r" \\")
    titles = " & ".join(map(escaped, head)) + r" \\"
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            titles,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "ε": r"$\varepsilon$",
    "α": r"$\alpha$",
    "∞": r"$\infty$",
    "–": "--",
    "…": r"\dots{}",
}


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX.get(character, character) for character in text)


def share(mean: Mean | None) -> str:
    """84.4 ± 1.2 %."""
    if mean is None or mean.half is None:
        return percent(mean.value if mean else None)
    return f"{100 * mean.value:.1f} ± {100 * mean.half:.1f} %"


def _share_of(figure: str, group: Group) -> str:
    return share(group.mean(figure))


def _epsilon(group: Group) -> str:
    """The mean; ∞ where a run of the group has no noise."""
    mean = group.mean("epsilon")
    return epsilon(mean.value if mean else None) if any(line.private for line in group.lines) else "–"


def plain(mean: Mean | None, form: Callable[[float], str]) -> str:
    return "–" if mean is None else form(mean.value)


def _difference(one: Difference) -> tuple[str, ...]:
    half = "" if one.mean.half is None else f" ± {100 * one.mean.half:.1f}"
    p = "–" if one.p is None else f"{one.p:.2g}"
    return one.label, str(one.mean.count), f"{100 * one.mean.value:+.1f}{half} points", p


def _took(took: Sequence[Reached]) -> tuple[str, ...]:
    """Means over the runs that reached it, of what all of them tell."""
    forms: tuple[Callable[[float], str], ...] = ("{:.1f}".format, "{:.1f}".format, duration, duration, epsilon)
    columns = [*zip(*map(astuple, took), strict=True)] or [(None,)] * len(forms)
    return tuple("–" if None in values else form(fmean(values)) for values, form in zip(columns, forms, strict=True))
