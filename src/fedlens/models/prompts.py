"""The texts by which a dual encoder knows its classes: each class' name in a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlens.core.clean import line
from fedlens.core.words import count
from fedlens.errors import ModelError
from fedlens.models.text_readers import TextReader

_LONGEST_NAME = 60


@dataclass(frozen=True)
class Prompts:
    """template: "{}" in it stands for the name of a class."""

    reader: TextReader
    template: str

    def read(self, class_names: Sequence[str]) -> Tensor:
        """(classes, …), in main memory.

        Raises:
            ModelError: two prompts are cut to the same tokens.
        """
        read = in_main_memory(self.reader, self._of(class_names))
        _, numbers, counts = read.unique(dim=0, return_inverse=True, return_counts=True)
        if counts.max() > 1:
            one, other = [class_names[row] for row in (numbers == counts.argmax()).nonzero()[:2, 0].tolist()]
            raise ModelError(
                f"classes {one!r} and {other!r} are one to this model, which reads the beginning of prompts alone: "
                f"{self._to_read_more}"
            )
        return read

    def note_of_cut(self, class_names: Sequence[str], taken: int) -> str:
        """A line for the user if prompts of some classes are not read to their end; "" if all are. `taken`: as
        `TextReader.cut`."""
        cut = self.reader.cut(self._of(class_names), taken)
        if not any(cut):
            return ""
        some = f"class {line(class_names[cut.index(True)], _LONGEST_NAME)!r}"
        more = f" and {count(sum(cut) - 1, 'other')}" if sum(cut) > 1 else ""
        return f"{some}{more}: the end is not read, so the model may take it for another one; {self._to_read_more}"

    @property
    def _to_read_more(self) -> str:
        key = self.reader.longer_by
        return "use shorter names or a shorter model.prompt" + (f", or train with a larger {key}" if key else "")

    def _of(self, class_names: Sequence[str]) -> list[str]:
        return [self.template.replace("{}", name) for name in class_names]


def in_main_memory(reader: TextReader, texts: Sequence[str]) -> Tensor:
    """`texts` as `reader` gives them, also where a model is built on the meta device, to see its shapes."""
    with torch.device("cpu"):
        return reader.read(texts, lambda _done, _all: None)
