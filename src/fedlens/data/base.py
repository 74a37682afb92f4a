"""The interfaces of data blocks: sources of images, and schemes that partition them among clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlens.core.registry import Registry
from fedlens.data.types import ImageTable


class Source(ABC):
    """A source of images. The fields of the dataclass are its configuration keys under `data`.

    reads  what `claims` recognizes, as an error message names it: "a .csv table"
    asked  the place in which `claims` is asked; a source that needs longer to look, or takes anything, has a later one
    """

    reads: ClassVar[str] = ""
    asked: ClassVar[int] = 0

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Whether `data.source: auto` chooses this source for `path`, which exists. By default it never does.

        Raises:
            DataError: it would, but for a mistake in the folder that the message names.
        """
        return False

    @abstractmethod
    def load(self) -> ImageTable:
        """List (or decode) the images.

        Raises:
            DataError: there are no images, or they are not in the expected form; the message names the file and the way
            out.
        """


@dataclass(frozen=True)
class ToPartition:
    """The rows to partition. Rows without a label, if there are any, are of a class of their own, the last. `natural`:
    each row's own client, if the source knows it."""

    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    clients: int
    seed: int
    natural: NDArray[np.str_] | None = None


class Scheme(ABC):
    """How rows are partitioned among clients. The fields of the dataclass are its keys under `data.partition`.

    keeps_clients  the data's own clients are kept
    overlaps       several clients may hold the same row; it is in the same split at each of them
    """

    keeps_clients: ClassVar[bool] = False
    overlaps: ClassVar[bool] = False

    @abstractmethod
    def assign(self, rows: ToPartition) -> dict[str, NDArray[np.int64]]:
        """Client name → positions in `rows.labels`; every position at most once, or where it `overlaps` at most once a
        client.

        Raises:
            DataError: the scheme cannot be applied to these rows; the message says why.
        """


sources: Registry[Source] = Registry("data source", "fedlens.data.sources")
schemes: Registry[Scheme] = Registry("partition scheme", "fedlens.data.partition")

_SIGNS = {"alpha": "α"}


def described(scheme: Scheme) -> str:
    """A short description of a scheme, "dirichlet α 0.3": its name, its first parameter, and other non-default ones."""
    kind = type(scheme)
    name = next((entry.name for entry in schemes.entries() if entry.factory is kind), kind.__name__)
    parameters: list[Field[Any]] = [field for field in fields(kind) if field.init] if is_dataclass(kind) else []
    told = [field for field in parameters if field is parameters[0] or getattr(scheme, field.name) != field.default]
    return " ".join([name, *(f"{_SIGNS.get(field.name, field.name)} {getattr(scheme, field.name)}" for field in told)])
