"""A folder of clients: PATH/<client>/<class>/….jpg, as written by `fedlens data partition`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from fedlens.data.base import Source, sources
from fedlens.data.folders import existing_folder, folder_layout, folder_table
from fedlens.data.tree import printable
from fedlens.data.types import ImageTable
from fedlens.errors import DataError


@sources.register(
    "clients", summary="photographs already dealt out: PATH/<client>/<class>/…, with PATH/test if it exists"
)
@dataclass(frozen=True)
class ClientFolders(Source):
    """Each folder in PATH is a client, in natural order, except test: the global test set, which belongs to no client.
    Split folders may be above the clients, in each client, or in each class; clients may also be in each class, if
    their names are recognisable (client1, site_a, hospital-2). PATH/classes.json gives the order of the classes;
    without it they are sorted."""

    path: Annotated[Path, Field(description="folder with a folder for each client")]

    asked: ClassVar[int] = 1  # it lists the whole tree

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.is_dir() and folder_layout(path).has_clients

    def load(self) -> ImageTable:
        """List the images. Raises DataError, as `folder_table`, or if there are no folders of clients."""
        root = existing_folder(self.path)
        table = folder_table(root, clients=True)
        if table.clients is None:
            raise DataError(f"data.path: no folders of clients in {printable(root)}; expected <client>/<class>/<image>")
        return table
