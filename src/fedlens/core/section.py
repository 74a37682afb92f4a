"""Base classes of a configuration's sections. A section that a part of FedLens uses as it is lies with that part."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A closed section: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


class BlockSection(BaseModel):
    """A section that names a registered block and carries the block's own keys as extras."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    @property
    def parameters(self) -> dict[str, Any]:
        """The block's own keys."""
        return dict(self.__pydantic_extra__ or {})
