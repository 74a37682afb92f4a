"""The clients given by the data itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlens.data.base import Scheme, ToPartition, schemes
from fedlens.data.tree import natural
from fedlens.errors import DataError


@schemes.register("natural", "the clients that the data itself names: a hospital, a plant, a photographer")
@dataclass(frozen=True)
class Natural(Scheme):
    """Rows without a client are not used."""

    keeps_clients: ClassVar[bool] = True

    def assign(self, rows: ToPartition) -> dict[str, NDArray[np.int64]]:
        if rows.natural is None or not (rows.natural != "").any():
            raise DataError(
                "partition natural: the data names no clients. Give a source that does (client folders, a manifest "
                "with a client column), or choose another partition.scheme (`fedlens data schemes` lists them)."
            )
        names, codes = np.unique(rows.natural, return_inverse=True)
        parts = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
        found = {str(name): part.astype(np.int64) for name, part in zip(names, parts, strict=True) if name != ""}
        return dict(sorted(found.items(), key=lambda item: natural(item[0])))
