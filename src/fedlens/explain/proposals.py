"""Proposed changes that the configuration of a run takes: a command to try has to work, and to change something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedlens.errors import FedLensError
from fedlens.explain.evidence import Evidence
from fedlens.tracking.findings import Finding
from fedlens.tracking.next_steps import from_python

if TYPE_CHECKING:
    from fedlens.config.idle import Use


def workable(found: Sequence[Finding], run: Evidence, config: Path) -> list[Finding]:
    """The findings, without changes that change nothing, and without those that the configuration in the file `config`
    refuses. What cannot be checked stays: the run has objects from Python, or its file cannot be read any more."""
    use: Use = "server" if run.remote else "run"
    checked = any(one.changes for one in found) and not from_python(run.config) and not _refused(config, {}, use)

    def works(change: Mapping[str, str]) -> bool:
        if all(_text(run.value(key)) == value for key, value in change.items()):
            return False
        return not checked or not _refused(config, change, use)

    return [replace(one, changes=tuple(filter(works, one.changes))) for one in found]


def _text(value: object) -> str:
    """As it is written on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _refused(config: Path, change: Mapping[str, str], use: Use) -> bool:
    from fedlens.build.load import load  # imports torch

    try:
        load(config, [f"{key}={value}" for key, value in change.items()], use=use)
    except FedLensError:
        return True
    return False
