"""A folder of clients: PATH/<client>/<class>/….jpg, what `fedlens data partition` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedlens.data.base import Source, sources
from fedlens.data.folders import existing_folder, folder_table, sub_folders
from fedlens.data.types import ImageTable

TEST_FOLDER = "test"


@sources.register(
    "clients", summary="photographs already dealt out: PATH/<client>/<class>/…, with PATH/test if it exists"
)
@dataclass(frozen=True)
class ClientFolders(Source):
    """Each folder in PATH is a client, in natural order, but for test: the global test set, nobody's.
    PATH/classes.json gives the order of the classes; without it they are sorted by name."""

    path: Annotated[Path, Field(description="folder with a folder for each client")]

    def load(self) -> ImageTable:
        """List the images. Raises: DataError, as `folder_table`."""
        root = existing_folder(self.path)
        folders = sub_folders(root)
        has_test = any(folder.name == TEST_FOLDER for folder in folders)
        parts = [
            (folder, "test", "") if folder.name == TEST_FOLDER else (folder, "train" if has_test else "", folder.name)
            for folder in folders
        ]
        return folder_table(root, parts, with_clients=True)
