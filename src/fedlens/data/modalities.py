"""Which rows have an image, which have a text: counted, taken away from clients, or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedlens.core.seeds import derive
from fedlens.core.words import count
from fedlens.data.division import check_classes
from fedlens.data.sections import ModalitiesSection
from fedlens.data.summary import some
from fedlens.data.types import ClientRows, FederatedData, ImageTable, Rows
from fedlens.errors import ConfigError, DataError

Kind = Literal["image only", "text only", "both"]
Mask = NDArray[np.bool_]

KEY = "data.modalities"


def with_texts(data: FederatedData, table: ImageTable, kept: Rows) -> FederatedData:
    """`data`, whose rows are the rows `kept` of `table`, with their texts, and with which rows have what."""
    has_image = table.has_image[kept]
    data = data if has_image.all() else replace(data, has_image=torch.from_numpy(has_image))
    if table.texts is None:
        return data
    texts = [table.texts[row] for row in kept.tolist()]
    return replace(data, texts=texts, has_text=torch.from_numpy(table.has_text[kept]))


def perhaps_without_texts(data: FederatedData) -> FederatedData:
    """`data`; where it has no texts at all, every row lacks one. For a site, for a server's test images,
    and for a model that needs no texts but the names of classes."""
    if data.texts is not None:
        return data
    rows = len(data.labels)
    return replace(data, texts=[""] * rows, has_text=torch.zeros(rows, dtype=torch.bool))


def modalities_of(data: FederatedData, rows: Rows) -> tuple[int, int]:
    """(how many of `rows` have an image, how many have a text)."""
    images, texts = masks(data)
    return int(images[rows].sum()), int(texts[rows].sum())


def kind_of(data: FederatedData, client: ClientRows) -> Kind:
    """What a client has of modalities in its training and validation rows. Test rows do not count: those that are in
    the global test set, too, keep both where `take_away` took one."""
    return kind(*modalities_of(data, np.concatenate([client.train, client.val])))


def kind(images: int, texts: int) -> Kind:
    """The kind of a client by how many of its rows have an image, and how many a text."""
    return "both" if images and texts else "image only" if images else "text only"


def without_images(data: FederatedData) -> FederatedData:
    """`data` for a model that takes images alone: rows without an image are left out of every client and of the global
    test set, and clients without any training row are left out. A note in the report counts both.

    Raises:
        DataError: no training image is left, or images of one class only.
    """
    if data.has_image is None:
        return data
    images, _ = masks(data)
    left, note = only(data, images, images, "without an image, for the model takes images alone")
    if note is None:
        return data
    if not left.clients:
        raise DataError(
            "no client has a training image, and the model takes images alone: choose a model that takes texts, or "
            "give images"
        )
    lacking = check_classes(data.labels.numpy(), data.class_names, left.clients)
    return noted(left, note, *lacking)


def complete_clients(data: FederatedData) -> FederatedData:
    """`data` without the clients that lack a modality altogether. A note in the report counts them.

    Raises:
        DataError: no client has both.
    """
    left = tuple(client for client in data.clients if kind_of(data, client) == "both")
    if len(left) == len(data.clients):
        return data
    if not left:
        raise DataError(
            "federated.missing_modalities=drop_clients: no client has images and texts; use by_part, or average"
        )
    gone = sorted({client.name for client in data.clients} - {client.name for client in left})
    return noted(
        replace(data, clients=left), f"left out {count(len(gone), 'client')} that lack images or texts ({some(gone)})"
    )


def take_away(data: FederatedData, section: ModalitiesSection, seed: int) -> FederatedData:
    """`data` in which shares of the clients have lost their texts, or their images.

    Which clients depends on `seed` and on their names alone; of text-only ones there are never more than the image-only
    ones leave. They lose the modality in all their own rows: training, validation and test. Rows of the global test set
    keep both; so does a client's own test row that is in the global test set, too. A row that is left with neither
    leaves its client, and a client without training rows leaves the data. The pixels of lost images stay in `images`,
    where `has_image` is False; so `cache_key` stays, too.

    Raises:
        ConfigError: a share is less than one client.
        DataError: the data has no texts, or no training row is left.
    """
    if not section.image_only and not section.text_only:
        return data
    if data.has_text is None or data.texts is None:
        raise DataError(f"{KEY}: the data has no texts, so no client can be without one; leave it out, or give texts")
    image_only, text_only = _drawn([client.name for client in data.clients], section, seed)
    images, texts = masks(data)
    texts[_own_rows(data, image_only)] = False
    images[_own_rows(data, text_only)] = False
    told = [text if has else "" for text, has in zip(data.texts, texts.tolist(), strict=True)]
    taken = replace(data, texts=told, has_image=torch.from_numpy(images), has_text=torch.from_numpy(texts))
    notes = [f"{KEY}: {_lost(image_only, 'texts')}"] if image_only else []
    notes += [f"{KEY}: {_lost(text_only, 'images')}"] if text_only else []
    left, note = only(taken, images | texts, np.ones(len(images), bool), f"that {KEY} left with neither image nor text")
    if not left.clients:
        raise DataError(f"{KEY}: no training row is left, for no client has what it keeps; choose smaller shares")
    return noted(left, *notes, *([note] if note else []))


def masks(data: FederatedData) -> tuple[Mask, Mask]:
    """(N,) whether each row has an image, and whether it has a text; the caller's own."""
    rows = len(data.labels)
    images = np.ones(rows, bool) if data.has_image is None else data.has_image.numpy().copy()
    return images, np.zeros(rows, bool) if data.has_text is None else data.has_text.numpy().copy()


def _drawn(names: Sequence[str], section: ModalitiesSection, seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """(the clients with images only, those with texts only): the first and the last ones in a seeded random order.

    Raises:
        ConfigError: a share is less than one client.
    """
    order = sorted(names, key=lambda name: (derive(seed, "modalities", name), name))
    first = _number(order, "image_only", section.image_only)
    last = min(_number(order, "text_only", section.text_only), len(order) - first)
    return frozenset(order[:first]), frozenset(order[len(order) - last :])


def _number(names: Sequence[str], key: str, share: float) -> int:
    """Raises ConfigError: a share above 0 of no client."""
    number = round(share * len(names))
    if share and not number:
        text = f"of {len(names)} clients that is less than one: leave it out, or give a larger share"
        raise ConfigError(f"{KEY}.{key} = {share}: {text}", code="incompatible", key=f"{KEY}.{key}")
    return number


def _own_rows(data: FederatedData, names: frozenset[str]) -> Rows:
    """All rows of these clients, without those in the global test set."""
    own = [rows for one in data.clients if one.name in names for rows in (one.train, one.val, one.test)]
    return np.setdiff1d(np.concatenate([np.empty(0, np.int64), *own]), data.test)


def _lost(names: frozenset[str], what: str) -> str:
    return f"{count(len(names), 'client')} without {what} ({some(sorted(names))})"


def only(data: FederatedData, of_clients: Mask, of_test: Mask, reason: str) -> tuple[FederatedData, str | None]:
    """`data` with those rows alone for which the masks (N,) are true, without clients that have no training row then;
    and the note on what was left out, or None if nothing was."""
    held = [ClientRows(one.name, *(rows[of_clients[rows]] for rows in _parts(one))) for one in data.clients]
    left = replace(data, clients=tuple(held), test=data.test[of_test[data.test]])
    rows = len(_all_rows(data)) - len(_all_rows(left))
    if not rows:
        return data, None
    left = replace(left, clients=tuple(one for one in held if len(one.train)))
    gone = len(held) - len(left.clients)
    clients = f", and {count(gone, 'client')} with no other training row" if gone else ""
    return left, f"left out {count(rows, 'row')} {reason}{clients}"


def _parts(client: ClientRows) -> tuple[Rows, Rows, Rows]:
    return client.train, client.val, client.test


def _all_rows(data: FederatedData) -> Rows:
    """Every row that is used, once."""
    return np.unique(np.concatenate([data.test, *(rows for one in data.clients for rows in _parts(one))]))


def noted(data: FederatedData, *notes: str) -> FederatedData:
    known = data.report.notes
    return replace(data, report=replace(data.report, notes=(*known, *(note for note in notes if note not in known))))
