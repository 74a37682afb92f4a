"""Who watches a run as it goes: the console, a notebook, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from fedlens.core.records import RoundRecord
from fedlens.core.types import BatchProgress


class Observer(Protocol):
    """A tracker that is also told what a person wants to know between the rounds."""

    def start(self, header: Mapping[str, str], num_rounds: int, done: int) -> None:
        """The run begins, or goes on after `done` rounds."""
        ...

    def progress(self, label: str) -> Callable[[int, int], None]:
        """What to call with (done, all) while the work called `label` goes on."""
        ...

    def standing(self, standing: BatchProgress) -> None:
        """How far the round under way is; told now and then, where anybody knows."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...

    def round(self, record: RoundRecord) -> None: ...

    def finish(self, folder: Path, spent: Mapping[str, float]) -> None:
        """The run has ended, and its folder is complete. `spent`: seconds of this call by part."""
        ...

    def close(self) -> None: ...


class Silent:
    """Nobody watches."""

    def start(self, header: Mapping[str, str], num_rounds: int, done: int) -> None: ...

    def progress(self, label: str) -> Callable[[int, int], None]:
        return lambda _done, _all: None

    def standing(self, standing: BatchProgress) -> None: ...

    def note(self, text: str) -> None: ...

    def round(self, record: RoundRecord) -> None: ...

    def finish(self, folder: Path, spent: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...
