"""No compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlens.compression.base import compressions
from fedlens.transforms.base import UpdateTransform


@compressions.register("none", summary="updates and models travel as they are")
@dataclass(frozen=True)
class NoCompression(UpdateTransform):
    """The identity."""

    name: ClassVar[str] = "none"
