"""Sections of the configuration that the data room uses as they are."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from fedlens.core.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class ModalitiesSection(Section):
    """Clients that lack a modality on purpose, for research on missing modalities."""

    image_only: Share = Field(0.0, description="share of the clients that lose their texts, rounded")
    text_only: Share = Field(0.0, description="share of the clients that lose their images, rounded")

    @model_validator(mode="after")
    def _at_most_all(self) -> ModalitiesSection:
        if self.image_only + self.text_only > 1 + 1e-9:
            raise ValueError("image_only and text_only are shares of the same clients: together at most 1")
        return self
