"""What a check says of the thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedlens.errors import FedLensError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Verdict:
    """How it stands, and what to do. `advice` is empty where there is nothing to do."""

    status: Status
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Unseen:
    """The thing could not be looked at, and why."""

    reason: str


def ok(text: str) -> Verdict:
    return Verdict("ok", text)


def warn(text: str, advice: str) -> Verdict:
    return Verdict("warn", text, advice)


def fail(text: str, advice: str) -> Verdict:
    return Verdict("fail", text, advice)


def failed(error: FedLensError, advice: str) -> Verdict:
    """An error of FedLens' own. Most messages end with the way out after a semicolon; `advice` is for those without."""
    text, _, own = str(error).partition("; ")
    return fail(text, own or advice)
