"""What a server and a site say to each other besides tensors. Imports no PyTorch: a site's connection needs none.

Every message to a site carries the whole `Setup`, so a site that was restarted, or a stock SuperNode that starts a
process for every message, needs nothing but the message in its hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal

from flwr.app import ConfigRecord, RecordDict

from fedlens.errors import ProtocolError

PROTOCOL = 1
"""Changes whenever an old site could misunderstand a new server."""

HEAD = "fedlens"
"""The record that every message has."""

Kind = Literal["describe", "prepare", "refuse", "finish", "train", "evaluate", "count"]
FLOWER_TYPES: Mapping[Kind, str] = {
    **{"describe": "query", "prepare": "query", "refuse": "query", "finish": "query"},
    **{"train": "train", "evaluate": "evaluate", "count": "evaluate"},
}
"""Flower's message types."""


@dataclass(frozen=True)
class Setup:
    """What a site has to know of a run.

    config       the server's configuration, as `Config.model_dump(mode="json")`
    class_names  the label space, in order
    """

    run: str
    config: Mapping[str, Any]
    class_names: tuple[str, ...]
    image_size: int
    channels: Literal[1, 3]

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Setup:
        """Raises ProtocolError: `text` is not such a description."""
        try:
            values = json.loads(text)
            return cls(**{**values, "class_names": tuple(values["class_names"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ProtocolError(f"the server's description of the run cannot be read: {error}") from error


@dataclass(frozen=True)
class Description:
    """How a site introduces itself. `identity` tells a restart of the same site from another one with its name;
    `native_size` is 0 where images come in many sizes; `clock` is the site's time in Unix seconds."""

    name: str
    partition: int
    identity: str
    class_names: tuple[str, ...]
    images: int
    native_size: int
    channels: int
    device: str
    fedlens: str
    flwr: str
    clock: float


@dataclass(frozen=True)
class Prepared:
    """A site is ready for a setup: its images by split and class."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Refusal:
    """A site does not do what it was asked, and why. `final`: asking again is of no use."""

    reason: str
    final: bool = True


def head(kind: Kind, setup: Setup | None, **fields: int | float | str) -> ConfigRecord:
    """The head of a message to a site."""
    text = setup.to_json() if setup else ""
    return ConfigRecord({"protocol": PROTOCOL, "fedlens": version("fedlens"), "kind": kind, "setup": text, **fields})


def query(kind: Literal["describe", "prepare"], setup: Setup | None = None) -> RecordDict:
    """A message without tensors to a site."""
    return RecordDict({HEAD: head(kind, setup)})


def reply(content: Description | Prepared | Refusal) -> RecordDict:
    """A site's reply without tensors."""
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(content).items()}
    return RecordDict({HEAD: ConfigRecord({"protocol": PROTOCOL, "is": type(content).__name__, **values})})


def read_head(content: RecordDict) -> ConfigRecord:
    """The head of a message, from either side.

    Raises:
        ProtocolError: there is none, or the other side speaks another version.
    """
    records = content.config_records
    if HEAD not in records:
        raise ProtocolError("a message that is not FedLens'")
    spoken = records[HEAD].get("protocol")
    if spoken != PROTOCOL:
        raise ProtocolError(
            f"the other side speaks version {spoken!r} of FedLens' protocol, this one {PROTOCOL}: install the same "
            "FedLens on both"
        )
    return records[HEAD]


def read_reply(content: RecordDict) -> Description | Prepared | Refusal | None:
    """A site's reply without tensors; None when it has some.

    Raises:
        ProtocolError: it cannot be read.
    """
    record = read_head(content)
    kinds = {kind.__name__: kind for kind in (Description, Prepared, Refusal)}
    kind = kinds.get(str(record.get("is")))
    if kind is None:
        return None
    names = kind.__dataclass_fields__
    try:
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
        return kind(**{key: values[key] for key in names})  # type: ignore[arg-type]
    except KeyError as error:
        raise ProtocolError(f"a {kind.__name__} without {error}") from error


def fingerprint(setup: Setup) -> str:
    """Short name of a setup, for folders and caches."""
    return hashlib.sha256(setup.to_json().encode()).hexdigest()[:16]
