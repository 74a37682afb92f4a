"""How a visit to a server can end. Imports nothing heavy: the first checks show before the visit begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEAR_SECONDS = 15.0
"""How long a visit listens. A server that evaluates the model just now says nothing until it is done."""


@dataclass(frozen=True)
class Welcome:
    """What a server says of itself to whoever joins.

    ahead       seconds that this machine's clock is ahead of the server's
    registered  the name that the key stands for at the server; "" without keys
    present     partitions that are taken
    same_code   the run stands for the code of the FedLens that is installed here
    """

    fedlens: str
    flwr: str
    ahead: float
    registered: str
    present: tuple[int, ...]
    same_code: bool


@dataclass(frozen=True)
class Joined:
    """The server let the doctor in, but what it said is of no use. `text`: why; "" when it said nothing."""

    text: str = ""


@dataclass(frozen=True)
class Barred:
    """The server did not let the doctor in, or there is none: for the `clock`, the `key`, or something else."""

    why: Literal["clock", "key", "other"]
    text: str


Outcome = Welcome | Joined | Barred
