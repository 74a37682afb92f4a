"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedlens.errors import FedLensError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Verdict:
    """Status, text and advice. `advice` is empty if there is nothing to do."""

    status: Status
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Unseen:
    """The check was not possible, and why."""

    reason: str


def ok(text: str) -> Verdict:
    return Verdict("ok", text)


def warn(text: str, advice: str) -> Verdict:
    return Verdict("warn", text, advice)


def fail(text: str, advice: str) -> Verdict:
    return Verdict("fail", text, advice)


def failed(error: FedLensError, advice: str) -> Verdict:
    """The verdict for one of FedLens' own errors. Most messages end with the way out after a semicolon; `advice` is for
    the others."""
    text, _, own = str(error).partition("; ")
    return fail(text, own or advice)
