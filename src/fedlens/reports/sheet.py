"""A page of pictures with what a model sees in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedlens.core.clean import escape
from fedlens.data.found import relative
from fedlens.reports.overlay import embedded
from fedlens.reports.page import asset, page, table
from fedlens.tracking.pictures import thumbnail

MOST = 2_000
"""Pictures on one page: about 15 MB of photographs, 19 MB with maps."""

SIDE = 160
"""Side of a picture, in pixels."""

_TINY = 64
"""Pictures up to this side are enlarged with sharp pixels."""


class Sheet:
    """Collects pictures for a page. When it is `full`, further ones are to be counted only."""

    def __init__(self, images: Sequence[Path]) -> None:
        """`images`: all that will be added, or cannot be read."""
        self._names = relative(images)
        self._tiles: list[str] = []
        self._classes: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self._with_maps = False

    @property
    def full(self) -> bool:
        return len(self._tiles) >= MOST

    def count(self, label: str) -> int:
        """Count a picture, which is not shown; the number of its class on the page."""
        self._counts[label] += 1
        return self._classes.setdefault(label, len(self._classes))

    def add(
        self,
        image: Path,
        label: str,
        probability: float,
        view: NDArray[np.uint8],
        places: NDArray[np.float32] | None = None,
    ) -> None:
        """A picture with its class. view: uint8 (S, S, 3); places: where the class is seen, 0 to 1 (h, w)."""
        number = self.count(label)
        self._with_maps |= places is not None
        shown = picture(view, label, places)
        self._tiles.append(
            f'<figure data-class="{number}">{shown}<figcaption><b>{escape(label)}</b> {bar(probability)}'
            f"{file_line(self._names[image], image)}</figcaption></figure>"
        )

    def render(self, model: str, unreadable: Sequence[tuple[Path, str]]) -> str:
        """The page, in which the pictures have the order in which they were added."""
        pictures = self._counts.total()
        cards = [(f"{pictures:,}", "pictures"), (f"{len(self._counts):,}", "classes seen in them")]
        if unreadable:
            cards.append((f"{len(unreadable):,}", "files that could not be read"))
        cut = f" The first {MOST:,} of {pictures:,} pictures are shown." if pictures > len(self._tiles) else ""
        note = f"The page holds small copies of the pictures: take care whom it is given to.{cut}"
        script = asset("sheet.js")
        parts = [
            f"<p>{self._choice()} {self._switch()}</p>",
            f'<div class="sheet" id="sheet">{"".join(self._tiles)}</div><p class="soft">{note}</p>',
            not_read(unreadable),
            f"<script>{script}</script>",
        ]
        return page("Predictions", f"by {escape(model)}", parts, cards, plotted=False)

    def _choice(self) -> str:
        options = "".join(
            f'<option value="{self._classes[label]}">{escape(label)} ({number:,})</option>'
            for label, number in self._counts.most_common()
        )
        every = f'<option value="">all classes ({self._counts.total():,})</option>'
        return f'Show <select id="class" aria-label="class">{every}{options}</select>'

    def _switch(self) -> str:
        if not self._with_maps:
            return ""
        return '<label><input type="checkbox" id="maps" checked> with what speaks for the class</label>'


def picture(view: NDArray[np.uint8], words: str, places: NDArray[np.float32] | None = None) -> str:
    """HTML of a picture, uint8 (S, S, 3), and of a map over it; `words` stand for it where it is not seen."""
    tiny = ' class="tiny"' if max(view.shape[:2]) <= _TINY else ""
    over = "" if places is None else f'<img class="map" alt="" src="{embedded(places)}">'
    return f'<div class="view"><img{tiny} alt="{escape(words)}" src="{thumbnail(view, SIDE)}">{over}</div>'


def bar(probability: float) -> str:
    """HTML of a probability, as a figure and as a bar."""
    percent = f"{100 * probability:.1f}"
    return f'{percent}\u00a0%<span class="bar"><span style="width:{percent}%"></span></span>'


def not_read(unreadable: Sequence[tuple[Path, str]]) -> str:
    """HTML of files with the reasons why they could not be read; empty if there are none."""
    return f"<h2>Could not be read</h2>{table(('file', 'why'), unreadable)}" if unreadable else ""


def file_line(name: Path, image: Path) -> str:
    """HTML of the short `name` of a file; the whole path is shown under the pointer."""
    return f'<span class="file" title="{escape(str(image))}">{escape(str(name))}</span>'
