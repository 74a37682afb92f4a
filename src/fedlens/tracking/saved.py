"""Files that a run saved: reads JSON files and lines, and validates their structure, because they may have been edited.

Only the structure is checked, not the numbers; additional keys are allowed, because later versions may write them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from fedlens.core.files import parse_json, read_json
from fedlens.errors import FedLensError


class SavedEvaluation(BaseModel):
    """Evaluation of the shared model, on test or validation images."""

    accuracy: float | None
    loss: float | None = None
    recalls: list[float | None] = []
    examples: int = 0


class SavedClients(BaseModel):
    """Client accuracy of a round."""

    by_client: list[dict[str, Any]] = []


class Trained(BaseModel):
    """A client's result in a round."""

    client: str
    metrics: dict[str, float | None]


class Failed(BaseModel):
    client: str
    reason: str


class Round(BaseModel):
    """A line of metrics.jsonl."""

    round: int
    test: SavedEvaluation | None
    validation: SavedEvaluation | None
    clients: SavedClients | None
    cohort: list[Trained]
    failures: list[Failed]
    bytes_up: float
    bytes_down: float
    seconds: dict[str, float | None]
    train_loss: float | None
    virtual_seconds: float | None = None
    staleness: dict[str, float] | None = None
    measures: dict[str, float | None] = {}
    contributions: dict[str, float | None] = {}


class Partition(BaseModel):
    """partition.json."""

    class_names: list[str]
    clients: dict[str, dict[str, list[int]]]
    test: list[int]
    display: dict[str, str] = {}
    unlabelled: dict[str, int] = {}


class Confusion(BaseModel):
    """confusion.json."""

    test: list[list[int]] | None
    validation: list[list[int]] | None


class Data(BaseModel):
    """data.json."""

    read: int
    skipped: list[tuple[str, str]]
    notes: list[str]
    unit: str = "image"


class CrossSite(BaseModel):
    """cross-site.json."""

    accuracy: dict[str, dict[str, float]]
    shared: dict[str, float]
    images: dict[str, int]
    left_out: dict[str, str]
    gaps: dict[str, str]


class Result(BaseModel):
    """result.json."""

    reason: str = ""


class Failure(BaseModel):
    """failure.json."""

    error: str = ""


def read_saved(path: Path, form: Any) -> Any:
    """The value in a JSON file of a run.

    Raises:
        FedLensError: it cannot be read, is not JSON, or has another structure; the message names file and line, or key.
    """
    try:
        value = read_json(path)
    except json.JSONDecodeError as error:
        raise FedLensError(f"{path}, line {error.lineno}: not JSON ({error.msg}); {_WAY_OUT}") from error
    except OSError as error:
        raise FedLensError(f"{path}: cannot be read ({error.strerror}); {_WAY_OUT}") from error
    return formed(value, form, str(path))


def parse_line(text: str, where: str) -> dict[str, Any]:
    """One line of metrics.jsonl. `where` names file and line.

    Raises:
        FedLensError: it is not JSON, or not a round.
    """
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        raise FedLensError(f"{where}: not JSON ({error.msg}); {_LINE_WAY_OUT}") from error
    if not isinstance(value, dict) or not isinstance(value.get("round"), int):
        kind = f"no round, but {type(value).__name__}" if not isinstance(value, dict) else "no number of a round"
        raise FedLensError(f"{where}: {kind}; {_LINE_WAY_OUT}")
    return value


def formed(value: Any, form: Any, where: str) -> Any:
    """`value`, validated as `form`.

    Raises:
        FedLensError: it is invalid; the message names the first invalid key.
    """
    try:
        _adapter(form).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        reason = first["msg"][:1].lower() + first["msg"][1:]
        raise FedLensError(f"{where}: {key}: {reason}; {_WAY_OUT}") from error
    return value


_LINE_WAY_OUT = "put the line back from a copy of the run, or remove it: its round then counts as missing"
_WAY_OUT = "mend the file, or leave this run out"


@cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)


Anything = Mapping[str, Any]
