"""partition.png and partition.html: number of images per client and class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedlens.core.clean import escape
from fedlens.core.files import write_atomic
from fedlens.core.words import count
from fedlens.data.show import Counts, Holdings, partition_figure
from fedlens.errors import DataError
from fedlens.reports.page import page, table, titled

_SHADES = 8
_MOST_CLASSES = 60
"""Maximum number of columns; with more classes the page shows the heat map, and one line per client."""

_MOST_CELLS, _ROW = 6400, 4
"""Maximum number of cells; with many clients only the first have rows, so that the page stays below 200 KB. A row's
name and total take as much as four cells."""

_CAPTION = "The stronger the colour, the more images."


def write_partition(held: Holdings, folder: Path) -> tuple[Path, Path]:
    """Write `partition.png` and `partition.html`, which is self-contained; returns both paths.

    Raises:
        DataError: the folder cannot be written.
    """
    png, html = folder / "partition.png", folder / "partition.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partition_figure(held.counts, held.clients, held.class_names).savefig(png, dpi=120)
        write_atomic(html, render(held, png.name))
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}; choose another --out") from error
    return png, html


def render(held: Holdings, picture: str) -> str:
    """The page as text. `picture`: file name of the heat map, shown if there are too many classes for columns."""
    sizes = {held.unit: int(held.counts.sum()), "client": len(held.clients), "class": held.classes}
    total = " · ".join(count(number, what) for what, number in sizes.items())
    if len(held.class_names) <= _MOST_CLASSES:
        sections = [titled("Images by client and class", _CAPTION, _heat(held), wide=True)]
    else:
        image = f'<img class="whole" src="{escape(picture)}" alt="heat map of images by client and class">'
        sections = [titled("Images by client and class", _CAPTION, image, wide=True), _summary(held)]
    return page("Who holds what", total, sections, plotted=False)


def _heat(held: Holdings) -> str:
    """A table with a shade behind every number."""
    most = held.counts.max(initial=1)
    names = "".join(f"<th><span>{escape(name)}</span>" for name in held.class_names)
    shown = _MOST_CELLS // (len(held.class_names) + _ROW)
    clients = zip(held.clients[:shown], held.counts[:shown], strict=True)
    rows = "".join([*(_row(*client, most) for client in clients), *(_row(*one) for one in _sums(held, shown))])
    kind = "heat" if len(held.class_names) <= 6 else "heat many"
    return f'<div class="scroll"><table class="{kind}"><tr><th>client<th>images{names}{rows}</table></div>'


def _sums(held: Holdings, shown: int) -> Iterator[tuple[str, Counts]]:
    """The sums below the first `shown` clients."""
    if len(held.clients) > shown:
        yield f"{len(held.clients) - shown:,} more", held.counts[shown:].sum(axis=0)
    yield "all clients", held.counts.sum(axis=0)
    if held.test is not None:
        yield "test set", held.test


def _row(name: str, counts: Counts, most: int | None = None) -> str:
    """`most`: the count with the darkest shade; None: no shades, for sums."""
    shades = np.ceil(counts / most * _SHADES).astype(int).tolist() if most else [0] * len(counts)
    pairs = zip(shades, counts.tolist(), strict=True)
    cells = (
        f"<td class=s{shade}>{count:,}" if shade else f"<td>{f'{count:,}' if count else ''}" for shade, count in pairs
    )
    return f"<tr><th>{escape(name)}<td>{counts.sum():,}{''.join(cells)}"


def _summary(held: Holdings) -> str:
    rows = [
        (name, f"{counts.sum():,}", np.count_nonzero(counts[: held.classes]), held.commonest(counts))
        for name, counts in zip(held.clients, held.counts, strict=True)
    ]
    return table(("client", "images", "classes", "commonest class"), rows)
