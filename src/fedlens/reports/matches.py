"""A page of the pictures that a search has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlens.core import clean
from fedlens.core.clean import escape
from fedlens.data.found import relative
from fedlens.reports.page import page
from fedlens.reports.sheet import file_line, not_read, picture

View = NDArray[np.uint8]
"""(S, S, 3)."""


@dataclass(frozen=True)
class Tile:
    """A picture of the page."""

    image: Path
    similarity: float
    view: View


@dataclass(frozen=True)
class Wanted:
    """What was searched for: a text, a picture, or both."""

    text: str | None
    view: View | None


def render(
    wanted: Wanted, model: str, tiles: Sequence[Tile], searched: int, unreadable: Sequence[tuple[Path, str]]
) -> str:
    """The page, with the pictures in the order of `tiles`. searched: among how many they are the best."""
    cards = [(f"{searched:,}", "pictures searched"), (f"{len(tiles):,}", "most like what was asked for")]
    if unreadable:
        cards.append((f"{len(unreadable):,}", "files that could not be read"))
    note = (
        "The figure is the similarity: the cosine of the features, 1 at most. "
        "The page holds small copies of the pictures: take care whom it is given to."
    )
    parts = [
        "" if wanted.view is None else _example(wanted.view),
        f'<h2>Most similar first</h2><div class="sheet">{_tiles(tiles)}</div><p class="soft">{note}</p>',
        not_read(unreadable),
    ]
    asked = "" if wanted.text is None else f"“{escape(clean.line(wanted.text))}”, "
    return page("Search", f"{asked}by {escape(model)}", parts, cards, plotted=False)


def _example(view: View) -> str:
    tile = f"<figure>{picture(view, 'the picture that was given')}</figure>"
    return f'<h2>Like this picture</h2><div class="sheet">{tile}</div>'


def _tiles(tiles: Sequence[Tile]) -> str:
    names = relative([tile.image for tile in tiles])
    return "".join(
        f"<figure>{picture(tile.view, str(names[tile.image]))}<figcaption><b>{rank}</b> {tile.similarity:.3f}"
        f"{file_line(names[tile.image], tile.image)}</figcaption></figure>"
        for rank, tile in enumerate(tiles, start=1)
    )
