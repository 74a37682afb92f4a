"""Possible outcomes of a visit to a server. Imports nothing heavy, so that the first checks appear at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEAR_SECONDS = 15.0
"""Seconds that a visit waits for a message. A server that is evaluating the model sends nothing until it has
finished."""


@dataclass(frozen=True)
class Welcome:
    """What a server reports to a client that joins.

    ahead       seconds by which this machine's clock is ahead of the server's
    registered  the client name registered for the key at the server; "" without keys
    present     partitions that are in use
    same_code   the run uses the same FedLens code as this machine
    """

    fedlens: str
    flwr: str
    ahead: float
    registered: str
    present: tuple[int, ...]
    same_code: bool


@dataclass(frozen=True)
class Joined:
    """The server accepted the doctor, but its message is unusable. `text`: why; "" if there was no message."""

    text: str = ""


@dataclass(frozen=True)
class Barred:
    """The server rejected the doctor, or is not reachable: because of the `clock`, the `key`, or another reason."""

    why: Literal["clock", "key", "other"]
    text: str


Outcome = Welcome | Joined | Barred
