"""The page of `fedlens benefit`."""

from __future__ import annotations

from collections.abc import Sequence

from fedlens.core.clean import escape
from fedlens.core.words import count
from fedlens.reports.figures.sites import crossed, dumbbells
from fedlens.reports.page import page, paragraph, plot, section
from fedlens.reports.page import table as html_table
from fedlens.sweeps.baselines import LOCAL
from fedlens.sweeps.benefit import Benefit, Site, notes, sentences, table

MOST_SITES = 60
"""With more, those that gain the most and the least are drawn."""


def render(found: Benefit) -> str:
    """The page, as text."""
    drawn = _drawn(found.sites)
    accuracies = {site.name: {model: site.accuracy[model].value for model in found.models} for site in drawn}
    caption = f"Means over seeds. The line goes from training alone to {found.main}."
    if len(drawn) < len(found.sites):
        caption += f" Of {len(found.sites)} sites, the {len(drawn)} that gain most and least."
    marks = dumbbells(accuracies, found.models, (LOCAL, found.main))
    first, *rest = sentences(found)
    parts = [
        f'<p class="box"><b>{escape(first)}.</b></p>',
        *(paragraph(f"{line}.") for line in rest),
        section("At the sites", plot("Every model at every site", escape(caption), marks, wide=True)),
        html_table(*table(found), kind="runs"),
        *map(paragraph, notes(found)),
    ]
    if found.crossed:
        told = "Models that a client trained alone, then the shared ones, on the test images of each client."
        parts.append(section("From site to site", plot("Across sites", told, crossed(found.crossed), wide=True)))
    return page("Does federating help?", f"{count(len(found.sites), 'site')}, {count(found.seeds, 'seed')}", parts)


def _drawn(sites: Sequence[Site]) -> list[Site]:
    if len(sites) <= MOST_SITES:
        return list(sites)
    return [*sites[: MOST_SITES // 2], *sites[-MOST_SITES // 2 :]]
