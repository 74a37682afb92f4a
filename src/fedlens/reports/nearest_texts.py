"""Test images of a dual encoder in a report, each with the texts that it finds nearest."""

from __future__ import annotations

from pydantic import BaseModel, Field

from fedlens.core.clean import escape
from fedlens.reports.load import LoadedRun
from fedlens.reports.page import section, titled
from fedlens.reports.pictures import Embedded, validated


class Near(BaseModel):
    """A text. place: from 1, the most similar; own: it is the image's."""

    text: str
    label: str = Field(alias="class")
    place: int
    similarity: float
    own: bool


class Shown(BaseModel):
    image: Embedded
    label: str = Field(alias="class")
    nearest: list[Near]


class Kept(BaseModel):
    """The file format of `tracking.nearest_texts`. tested: rows; texts: different ones among them."""

    tested: int
    texts: int
    pictures: list[Shown]


def nearest_texts(run: LoadedRun) -> str:
    """The saved images of the run with their texts; empty if there are none.

    Raises:
        FedLensError: the file with them is damaged.
    """
    if not run.nearest_texts:
        return ""
    kept = validated(Kept, run.nearest_texts, run.folder.nearest_texts)
    caption = (
        f"{len(kept.pictures)} of {kept.tested:,} test rows with image and text, each with the nearest of "
        f"{kept.texts:,} different texts. The figure is the similarity: the cosine of both features, 1 at most. "
        "The rows show all classes where there is room, and half of them have their own text among the first three if "
        "there are enough such rows; the shares among all rows stand under Retrieval. The page holds these images and "
        "texts: take care whom it is given to. <code>tracking.pictures=false</code> leaves them out."
    )
    tiles = f'<div class="texts">{"".join(map(_tile, kept.pictures))}</div>'
    return section("Images and texts", titled("Nearest texts", caption, tiles, wide=True))


def _tile(shown: Shown) -> str:
    name = escape(shown.label)
    texts = "".join(_text(near, shown.label) for near in shown.nearest)
    return f'<div><b><bdi>{name}</bdi></b><img src="{shown.image}" alt="{name}"><ol>{texts}</ol></div>'


def _text(near: Near, label: str) -> str:
    """`dir`: a text that runs from right to left is shown so, and does not turn the line below."""
    which = "its own text" if near.own else "same class" if near.label == label else f"<bdi>{escape(near.label)}</bdi>"
    kind = ' class="own"' if near.own else ""
    return (
        f'<li value="{near.place}"{kind}><span dir="auto">{escape(near.text)}</span>'
        f"<small>{near.similarity:.3f} · {which}</small></li>"
    )
