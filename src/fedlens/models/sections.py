"""Sections of the configuration that models use as they are."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedlens.core.limits import Fraction, Rank
from fedlens.core.section import Section


class LoraSection(Section):
    """Low-rank adapters: they and the head are trained, and travel, in place of the backbone."""

    rank: Rank = Field(0, description="of the adapters; 0: none")
    alpha: Annotated[float, Field(gt=0)] | None = Field(None, description="weight of an adapter × rank; default: rank")
    dropout: Fraction = Field(0.0, description="of the adapters' input")
    targets: list[str] = Field(default_factory=list, description="ends of layer names; default: every linear layer")
