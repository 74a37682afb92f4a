"""A folder of class folders: PATH/<class>/….jpg, or PATH/train/<class>/… with val/ and test/ beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedlens.data.base import Source, sources
from fedlens.data.folders import SPLITS, existing_folder, folder_table, sub_folders
from fedlens.data.types import ImageTable


@sources.register(
    "imagefolder", summary="your photographs, one folder a class: PATH/<class>/…, or PATH/train/<class>/…"
)
@dataclass(frozen=True)
class ImageFolder(Source):
    """Images at any depth below a class folder belong to the class. Labels follow the sorted class names, as in
    torchvision's ImageFolder, unless PATH/classes.json orders them. Sub-folders named train, val (valid, validation)
    and test are the official splits when they are all there is and train is among them."""

    path: Annotated[Path, Field(description="folder with a folder for each class")]

    def load(self) -> ImageTable:
        """List the images. Raises: DataError, as `folder_table`."""
        root = existing_folder(self.path)
        folders = sub_folders(root)
        names = {folder.name for folder in folders}
        if "train" in names and names <= set(SPLITS):
            return folder_table(root, [(folder, SPLITS[folder.name], "") for folder in folders], with_clients=False)
        return folder_table(root, [(root, "", "")], with_clients=False)
