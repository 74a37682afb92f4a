"""CIFAR-100: see `data.cifar`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedlens.data.base import Source, sources
from fedlens.data.cifar import load_cifar
from fedlens.data.types import ImageTable


@sources.register(
    "cifar100", summary="CIFAR-100, 60,000 small colour pictures of 100 kinds of things; downloaded if absent"
)
@dataclass(frozen=True)
class CIFAR100(Source):
    """`path`: the folder of torchvision's copy, also for the download; default: FedLens' cache folder."""

    path: Annotated[Path | None, Field(description="folder of the files; default: the user's cache")] = None

    def load(self) -> ImageTable:
        """Read all 60,000 images. Raises DataError, as `load_cifar`."""
        return load_cifar("CIFAR100", self.path)
