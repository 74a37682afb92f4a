"""One line that describes how data was read, the same for folders, tables and saved data sets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedlens.core.words import count
from fedlens.data.tree import natural
from fedlens.data.types import Split

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_SHOWN = 5


def read_as(what: str, shape: str, classes: Sequence[str], clients: Iterable[str] = (), held_out: str = "") -> str:
    """The line. `clients`: of each image, "" for none; `held_out`: `splits_text`, or a replacement for it."""
    owners = sorted(set(clients) - {""}, key=natural)
    parts = [f"{count(len(owners), 'client')} ({some(owners)})"] if owners else []
    parts += [held_out] if held_out else []
    parts += [f"{count(len(classes), 'class')} ({some(classes)})" if classes else "no classes"]
    parts += [] if held_out else ["no splits"]
    return f"{what} read as {shape}: {', '.join(parts)}"


def rows_text(has_image: NDArray[np.bool_], has_text: NDArray[np.bool_], unlabelled: int = 0) -> str:
    """Text "45 images"; where there are texts, how many rows have what. The first two are (N,), a value for each row;
    unlabelled: how many have no label."""
    if not has_text.any():
        return count(len(has_image), "image")
    both = int((has_image & has_text).sum())
    parts = f"{has_image.sum():,} with an image, {has_text.sum():,} with a text, {both:,} with both"
    parts += f", {unlabelled:,} without a label" if unlabelled else ""
    return f"{count(len(has_image), 'row')} ({parts})"


def splits_text(found: Collection[str], names: dict[Split, str] | None = None) -> str:
    """Text "splits train/test", from the splits of all images; `names`: the data's own names for them."""
    known = [split for split in _SPLITS if split in found]
    named = [(names or {}).get(split, split) for split in known]
    other = f" (folders {', '.join(named)})" if named != known else ""
    return f"splits {'/'.join(known)}{other}" if known else ""


def some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
