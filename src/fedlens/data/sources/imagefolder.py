"""A folder of class folders: PATH/<class>/….jpg, or PATH/train/<class>/… with val/ and test/ beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from fedlens.data.base import Source, sources
from fedlens.data.folders import existing_folder, folder_table
from fedlens.data.types import ImageTable


@sources.register(
    "imagefolder", summary="your photographs, one folder a class: PATH/<class>/…, or PATH/train/<class>/…"
)
@dataclass(frozen=True)
class ImageFolder(Source):
    """Images at any depth below a class folder belong to the class. Labels follow the sorted class names, as in
    torchvision's ImageFolder, or the order in PATH/classes.json. Folders with names of splits (train, Training,
    seg_train; val, valid, validation, dev, eval; test, testing, …), above the classes or in each of them, are the
    official splits. The run's notes describe how the folders were read."""

    path: Annotated[Path, Field(description="folder with a folder for each class")]

    reads: ClassVar[str] = "a folder"
    asked: ClassVar[int] = 2  # it takes any folder

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.is_dir()

    def load(self) -> ImageTable:
        """List the images. Raises DataError, as `folder_table`."""
        return folder_table(existing_folder(self.path), clients=False)
