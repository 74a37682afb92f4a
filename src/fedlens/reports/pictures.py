"""The test images in a report: the most confident errors, the least confident correct predictions, and examples for
each cell of the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from fedlens.core.clean import escape
from fedlens.errors import FedLensError
from fedlens.reports.load import LoadedRun
from fedlens.reports.page import asset, titled

_NOTE = (
    "The page holds these test images as small copies: take care whom it is given to. "
    "<code>tracking.pictures=false</code> leaves them out."
)


Form = TypeVar("Form", bound=BaseModel)

Embedded = Annotated[str, Field(pattern=r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+$")]
"""A picture as `tracking.pictures.thumbnail` makes it."""


class Picture(BaseModel):
    image: Embedded
    true: str
    predicted: str
    confidence: float


class Cell(BaseModel):
    true: str
    predicted: str
    numbers: list[int]


class Kept(BaseModel):
    """The file format of `tracking.pictures`: numbers are indices into `pictures`."""

    tested: int
    pictures: list[Picture]
    mistakes: list[int]
    hits: list[int]
    cells: list[Cell]


def galleries(run: LoadedRun) -> str:
    """The saved images of the run; empty if there are none.

    Raises:
        FedLensError: the file with the images is damaged.
    """
    if not run.pictures:
        return ""
    kept = validated(Kept, run.pictures, run.folder.pictures)
    script = asset("pictures.js")
    # only "<" could end a script element
    data = kept.model_dump_json().replace("<", "\\u003c")
    total = f"{len(kept.pictures)} of {kept.tested:,} test images are kept. {_NOTE}"
    parts = (
        titled("Most confident mistakes", "The model was surest of these, and wrong.", _tiles("mistakes"), wide=True),
        titled("Least confident hits", "Right, and only just.", _tiles("hits"), wide=True),
        titled("Behind the confusion matrix", f"{_choice(kept)} {total}", _tiles("cell"), wide=True),
    )
    return f'<div class="plots">{"".join(parts)}</div><script type="application/json" id="pictures">{data}</script>' + (
        f"<script>{script}</script>"
    )


def validated(form: type[Form], found: Mapping[str, Any], file: Path) -> Form:
    """What `file` holds.

    Raises:
        FedLensError: it is damaged.
    """
    try:
        return form.model_validate(found)
    except ValidationError as error:
        raise FedLensError(f"{file}: not as a run writes it; remove the file to do without") from error


def _choice(kept: Kept) -> str:
    options = "".join(
        f'<option value="{number}">{escape(cell.true)} → {escape(cell.predicted)}</option>'
        for number, cell in enumerate(kept.cells)
    )
    return f'Choose a cell of the matrix: click it, or <select id="cells" aria-label="cell">{options}</select>.'


def _tiles(name: str) -> str:
    return f'<div class="tiles" id="{name}"></div>'
