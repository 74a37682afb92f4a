"""An excerpt of the sample: a few clients with a few images each, small enough to copy to several machines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedlens.data.base import ToPartition
from fedlens.data.export import take
from fedlens.data.partition.natural import Natural
from fedlens.data.types import ImageTable
from fedlens.errors import DataError


def excerpt(clients: int, images: int, seed: int) -> ImageTable:
    """The first `clients` of the sample's shops, renamed client1, client2, …, with `images` randomly drawn images each
    (fewer if a shop has fewer), and the test images of their classes.

    Raises:
        DataError: the sample has fewer clients.
    """
    from fedlens.data.sources.sample import Sample

    table = Sample().load()
    shops = Natural().assign(ToPartition(table.labels, table.class_names, clients, seed, table.clients))
    if clients > len(shops):
        raise DataError(
            f"the sample has {len(shops)} clients, not {clients}; for more, deal it out again: "
            f"fedlens data partition --source sample --scheme dirichlet --clients {clients} --out …"
        )
    names, chosen = np.full(len(table.labels), "", "<U16"), []
    for number, rows in enumerate(list(shops.values())[:clients], start=1):
        chosen.append(np.random.default_rng([seed, number]).permutation(rows)[:images])
        names[rows] = f"client{number}"
    training = np.concatenate(chosen)
    held = np.isin(table.labels, table.labels[training])
    tests = np.flatnonzero((table.clients == "") & held)
    return take(replace(table, clients=names), np.sort(np.concatenate([training, tests])))
