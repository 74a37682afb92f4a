"""Models split in two: the head, selected by a prefix of tensor names, and the body, all other tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import nn

from fedlens.personalization.base import LocalTrainingContext, Personalization

Head = Annotated[str, Field(min_length=1, description="how the names of the head's tensors begin")]


@dataclass(frozen=True)
class SplitPersonalization(Personalization):
    """Base for methods that treat head and body differently."""

    head: Head = "head."

    def in_head(self, name: str) -> bool:
        return name.startswith(self.head)

    def head_of(self, local: LocalTrainingContext) -> frozenset[str]:
        """Names of the head's trainable parameters."""
        return frozenset(filter(self.in_head, trainable_names(local.module)))

    def body_of(self, local: LocalTrainingContext) -> frozenset[str]:
        """Names of the other trainable parameters."""
        return frozenset(trainable_names(local.module)) - self.head_of(local)

    def incompatibility(self, model: nn.Module, /) -> str | None:
        names = trainable_names(model)
        found = sum(map(self.in_head, names))
        key = f"head = {self.head!r}"
        if not found:
            return f"{key}: no name of what this model trains begins so; they begin with {', '.join(beginnings(names))}"
        if found == len(names):
            return f"{key}: all that this model trains is its head, so there is no body; use model.freeze=none"
        return None


def trainable_names(module: nn.Module) -> list[str]:
    """Names of the trainable parameters."""
    return [name for name, value in module.named_parameters() if value.requires_grad]


def beginnings(names: list[str]) -> list[str]:
    """The distinct first components of the names: "backbone.", "head."."""
    return list(dict.fromkeys(name[: name.find(".") + 1] or name for name in names))
