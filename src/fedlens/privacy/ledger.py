"""The ledger: what a run has released, on disk before it is released.

    {"mechanism": {…}}      what is counted: the first line
    {"round": 1}            one line for each release; a round that was begun again has several

A line is written and flushed before the noise of its round is drawn. So a crash between noise and checkpoint counts as
spent, and going on from an older checkpoint never forgets a release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlens.core.files import append_line, read_regular
from fedlens.errors import CheckpointError


@dataclass(frozen=True)
class Spent:
    """rounds: the last round of which something was released; repeats: further releases of rounds up to that one."""

    rounds: int = 0
    repeats: int = 0

    def and_round(self, number: int) -> Spent:
        """These and one more release, of round `number`."""
        return Spent(max(self.rounds, number), self.repeats + (number <= self.rounds))


LEDGER_FILE = "privacy.jsonl"


class Ledger:
    """The ledger of one run in the file `path`. None: it is kept in memory alone, for releases that nobody will see."""

    def __init__(self, path: Path | None, mechanism: Mapping[str, Any]) -> None:
        """`mechanism`: what the releases are counted by, as plain JSON values.

        Raises:
            CheckpointError: the file was written by a run with another mechanism, or cannot be read.
        """
        self._path = path
        self._mechanism = dict(mechanism)
        self._cut_off = False
        self._rounds = self._read(path) if path is not None and path.exists() else []

    @property
    def spent(self) -> Spent:
        last = max(self._rounds, default=0)
        return Spent(last, len(self._rounds) - len(set(self._rounds)))

    @property
    def releases(self) -> int:
        """All releases."""
        return len(self._rounds)

    def reach(self, round_number: int) -> None:
        """Count one release at least for each round up to `round_number`, for a run whose ledger was lost.

        Raises:
            CheckpointError: it cannot be written.
        """
        for number in range(self.spent.rounds + 1, round_number + 1):
            self.spend(number)

    def spend(self, round_number: int) -> None:
        """Write one release of a round down.

        Raises:
            CheckpointError: it cannot be written; nothing may be released then.
        """
        if self._path is not None:
            self._write(self._path, round_number)
        self._rounds.append(round_number)

    def _write(self, path: Path, round_number: int) -> None:
        before = "" if path.exists() else json.dumps({"mechanism": self._mechanism}) + "\n"
        line = "\n" * self._cut_off + before + json.dumps({"round": round_number})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            append_line(path, line)
        except OSError as error:
            raise CheckpointError(
                f"{path}: the spent privacy cannot be written down ({error.strerror}), so nothing was released. "
                "Mend that (free some space), then `fedlens resume`"
            ) from error
        self._cut_off = False

    def _read(self, path: Path) -> list[int]:
        try:
            text = read_regular(path).decode()
            first, *lines = text.splitlines()
            mechanism = json.loads(first)["mechanism"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} cannot be read, so nobody knows how much privacy is spent: put it back from a backup, "
                "or start a new run"
            ) from error
        if mechanism != self._mechanism:
            raise CheckpointError(
                f"{path}: this run's noise was {_said(mechanism)}, and the configuration asks for "
                f"{_said(self._mechanism)}. A run keeps its mechanism: use the same privacy and federated keys, or "
                "start a new run"
            )
        self._cut_off = not text.endswith("\n")
        rounds: list[int] = []
        for line in lines:
            try:
                rounds.append(int(json.loads(line)["round"]))
            except (ValueError, KeyError, TypeError):  # a line cut off by a crash: its release counts, too
                rounds.append(max(rounds, default=0) + 1)
        return rounds


def _said(mechanism: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in mechanism.items()
    )
