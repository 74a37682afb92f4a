"""Measured latencies: a CSV file of clients and seconds."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedlens.clocks.base import IntermittentClients, clocks, draws
from fedlens.errors import DataError

_HEAD = ["client", "seconds"]


@clocks.register("trace", summary="measured times from a CSV file with the columns client and seconds")
@dataclass(frozen=True, kw_only=True)
class Trace(IntermittentClients):
    """If a client has several lines, each task draws one of them."""

    path: Annotated[Path, Field(description="the CSV file")]

    def seconds(self, client: str, seed: int, number: int) -> float:
        measured = self._measured[client]
        return measured[int(draws(seed, "seconds", number).integers(len(measured)))]

    def incompatibility(self, clients: Sequence[str], /) -> str | None:
        missing = [client for client in clients if client not in self._measured]
        others = f" and {len(missing) - 1} other client(s)" if missing[1:] else ""
        return f"path: {self.path} has no line for {missing[0]}{others}; add them" if missing else None

    @cached_property
    def _measured(self) -> Mapping[str, Sequence[float]]:
        return read_trace(self.path)


def read_trace(path: Path) -> dict[str, list[float]]:
    """Seconds of each client, in the file's order.

    Raises:
        DataError: the file cannot be read, or a line is not a client and a positive number of seconds.
    """
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except OSError as error:
        raise DataError(f"clock.path: {path} cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"clock.path: {path} is no CSV file ({error})") from error
    if not lines or [cell.strip() for cell in lines[0]] != _HEAD:
        raise DataError(f"clock.path: the first line of {path} must be {','.join(_HEAD)}")
    found: dict[str, list[float]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if line:
            found.setdefault(line[0].strip(), []).append(_seconds(path, number, line))
    return found


def _seconds(path: Path, number: int, line: Sequence[str]) -> float:
    try:
        _, text = line
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        said = ",".join(line)
        raise DataError(f"clock.path: {path}, line {number}: {said!r} is no client and a number of seconds above 0")
    return seconds
