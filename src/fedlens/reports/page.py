"""The parts of FedLens' self-contained HTML pages."""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template

from fedlens.core.clean import escape
from fedlens.core.files import write_atomic, writing
from fedlens.reports.figures.base import Figure
from fedlens.reports.uses import USES

_MOST_ROWS = 200


def page(
    title: str,
    subtitle: str,
    sections: Iterable[str],
    cards: Iterable[tuple[str, str]] = (),
    plotted: bool = True,
) -> str:
    """A whole page; includes plotly.js (2 MB, compressed) once if something is `plotted`. `title` is plain text,
    `subtitle` and `sections` are HTML; `cards`: headline figures, each a value and its label."""
    empty = Template(asset("page.html"))
    drawn = (f'<div class="card"><b>{value}</b><span>{what}</span></div>' for value, what in cards)
    return empty.substitute(
        title=escape(title),
        subtitle=subtitle,
        cards="".join(drawn),
        sections="\n".join(sections),
        script=_script() if plotted else "",
    )


@cache
def _script() -> str:
    """plotly.js, compressed, and the script that draws the plots with it."""
    from plotly.offline import get_plotlyjs

    packed = base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
    return f'<script id="plotly" type="text/plain">{packed}</script>\n<script>{asset("plots.js")}</script>'


def asset(name: str) -> str:
    """A file of the pages, as text."""
    return resources.files("fedlens.reports").joinpath(name).read_text(encoding="utf-8")


def section(title: str, *plots: str) -> str:
    """Plots under a title; empty if there are none."""
    shown = "".join(plots)
    return f'<h2>{escape(title)}</h2><div class="plots">{shown}</div>' if shown else ""


def plot(title: str, caption: str, figure: Figure | None, wide: bool = False) -> str:
    """A figure with its caption (HTML); `wide`: over the full width of the page."""
    if figure is None:
        return ""
    name, height = re.sub(r"[^\w-]+", "-", title.lower()), figure.layout.height
    place = f'<div id="{name}" class="plotly-graph-div" style="height:{height}px"></div>'
    content = figure.to_json().replace("<", "\\u003c")  # JSON in a script, whatever names are in it
    return titled(title, caption, f'{place}<script class="figure" type="application/json">{content}</script>', wide)


def titled(title: str, caption: str, content: str, wide: bool = False) -> str:
    """HTML in a card, under its title, a caption, and the explanation of its use (`USES`)."""
    use = f'<p class="use">{USES[title]}</p>' if title in USES else ""
    kind = "plot wide" if wide else "plot"
    return f'<figure class="{kind}"><h3>{escape(title)}</h3><figcaption>{caption}{use}</figcaption>{content}</figure>'


def table(head: Sequence[str], rows: Sequence[Iterable[object]], kind: str = "") -> str:
    """Plain text in a table; a very long table is truncated. `kind`: its CSS class in page.html."""
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows[:_MOST_ROWS])
    more = f"<p>… and {len(rows) - _MOST_ROWS:,} more.</p>" if len(rows) > _MOST_ROWS else ""
    named = f' class="{kind}"' if kind else ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="box"><table{named}><tr>{titles}</tr>{body}</table>{more}</div>'


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{escape(text)}</p>"


def warning(text: str) -> str:
    """Highlighted plain text; empty for an empty text."""
    return f'<p class="box advice">{escape(text)}</p>' if text else ""


def _cells(row: Iterable[object]) -> str:
    return "".join(f"<td>{escape(str(cell))}</td>" for cell in row)


def write_plot(text: str, path: Path) -> None:
    """Write the page that `--plot` asks for; errors as `write_output`."""
    write_output("--plot", path, text)


def write_output(option: str, path: Path, text: str) -> None:
    """Write the file that an option names.

    Raises:
        ConfigError: it cannot be written.
    """
    with writing(option, path):
        write_atomic(path, text)
