"""Observers of a run: the console, a notebook, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fedlens.core.records import RoundRecord
from fedlens.core.types import BatchProgress
from fedlens.tracking.findings import Finding


class Observer(Protocol):
    """A tracker that also receives what users want to see between rounds."""

    def start(self, header: Mapping[str, str], num_rounds: int, done: int) -> None:
        """The run starts, or resumes after `done` rounds."""
        ...

    def progress(self, label: str) -> Callable[[int, int], None]:
        """The function to call with (done, all) during the work called `label`."""
        ...

    def standing(self, standing: BatchProgress) -> None:
        """The progress of the current round; called occasionally, if the runtime knows it."""
        ...

    def note(self, text: str) -> None:
        """A message for the user."""
        ...

    def round(self, record: RoundRecord) -> None: ...

    def finish(self, folder: Path, spent: Mapping[str, float], findings: Sequence[Finding]) -> None:
        """The run has ended, and its folder is complete. `spent`: seconds of this call by part; `findings`: what limits
        it."""
        ...

    def close(self) -> None:
        """The rounds have ended, or failed. A run that goes on with `memory.auto` starts again."""
        ...


class Silent:
    """An observer without output."""

    def start(self, header: Mapping[str, str], num_rounds: int, done: int) -> None: ...

    def progress(self, label: str) -> Callable[[int, int], None]:
        return lambda _done, _all: None

    def standing(self, standing: BatchProgress) -> None: ...

    def note(self, text: str) -> None: ...

    def round(self, record: RoundRecord) -> None: ...

    def finish(self, folder: Path, spent: Mapping[str, float], findings: Sequence[Finding]) -> None: ...

    def close(self) -> None: ...
