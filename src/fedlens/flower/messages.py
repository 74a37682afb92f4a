"""Messages between a server and a site, except their tensors. PyTorch is not imported: a site's connection needs none.

Every message to a site carries the whole `Setup`, so a site that was restarted, or a stock SuperNode that starts a
process for every message, needs nothing but that message.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any, Literal

from flwr.app import ConfigRecord, RecordDict
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedlens.core import clean
from fedlens.errors import ProtocolError

PROTOCOL = 4
"""Version of the protocol; it changes whenever an old site could misunderstand a new server."""

HEAD = "fedlens"
"""The record that every message has."""

CONTROL = frozenset({"describe", "prepare", "refuse", "finish"})
"""Kinds of messages that are no tasks. All others are named as the kind of their task."""

CHECKED = ConfigDict(strict=True, extra="forbid")
"""Messages from the other side must have the types and bounds that are declared here."""

LONGEST_CLASS_NAME = 200
LONGEST_REASON = 1000
LONGEST_VERSION = 50


def _visible(text: str) -> str:
    """Raises ValueError: `text` has characters that cannot be shown."""
    if not clean.is_clean(text):
        raise ValueError(f"it has characters that cannot be shown: {clean.line(text, LONGEST_CLASS_NAME)}")
    return text


def _cut(longest: int) -> BeforeValidator:
    """Shortens a text to one line of at most `longest` characters; other types are left to pydantic's check."""
    return BeforeValidator(lambda value: clean.line(value, longest) if isinstance(value, str) else value)


Name = Annotated[str, Field(min_length=1, max_length=clean.LONGEST_NAME, pattern=clean.NAME)]
FolderName = Annotated[str, Field(max_length=200, pattern=r"^[^./\\\x00][^/\\\x00]*$"), AfterValidator(_visible)]
ClassName = Annotated[str, Field(max_length=LONGEST_CLASS_NAME), AfterValidator(_visible)]
Identity = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_visible)]
Version = Annotated[str, _cut(LONGEST_VERSION)]
LARGEST_IMAGE = 4096
"""Largest side in pixels to which a site decodes images: the server chooses the size, but the disk is the site's."""

Count = Annotated[int, Field(ge=0, lt=2**53)]
"""Largest count: exact as a float, because counts become weights."""
Counts = tuple[Count, ...]
Seconds = Annotated[float, Field(allow_inf_nan=False, ge=0, lt=1e11)]
"""Unix time, of some thousands of years."""


LONGEST_KEY = 200
"""Characters of what identifies a reader of texts."""


@dataclass(frozen=True, config=CHECKED)
class Setup:
    """The setup of a run, as a site gets it.

    run          its name, which becomes a folder at the site
    config       the server's configuration, as `Config.model_dump(mode="json")`
    class_names  the label space, in order
    text_reader  how the model's texts are read: `TextReader.key`; "": it takes images alone
    """

    run: FolderName
    config: Mapping[str, Any]
    class_names: tuple[ClassName, ...]
    image_size: Annotated[int, Field(ge=1, le=LARGEST_IMAGE)]
    channels: Literal[1, 3]
    text_reader: Annotated[str, Field(max_length=LONGEST_KEY)] = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Setup:
        """Raises ProtocolError: `text` is not such a description."""
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise ProtocolError(f"the server's description of the run cannot be read: {_first(error)}") from error


@dataclass(frozen=True, config=CHECKED)
class Description:
    """How a site introduces itself. `identity` tells a restart of the same site from another one with its name;
    `native_size` is 0 where images come in many sizes; `clock` is the site's time in Unix seconds."""

    name: Name
    partition: Count
    identity: Identity
    class_names: tuple[ClassName, ...]
    images: Count
    native_size: Count
    channels: Literal[1, 3]
    device: Version
    fedlens: Version
    flwr: Version
    clock: Seconds


@dataclass(frozen=True, config=CHECKED)
class Prepared:
    """A site is ready for a setup: its images by split and class. Without any numbers it keeps them to itself, as a run
    with privacy allows. cross_site: its rules allow cross-site evaluation; unlabelled: training rows without a
    label."""

    train: Counts
    val: Counts
    test: Counts
    cross_site: bool = False
    unlabelled: Annotated[int, Field(ge=0)] = 0

    @property
    def hidden(self) -> bool:
        return not (self.train or self.val or self.test)


@dataclass(frozen=True, config=CHECKED)
class Refusal:
    """A site's refusal, with the reason in one line. `final`: asking again does not help."""

    reason: Annotated[str, _cut(LONGEST_REASON)]
    final: bool = True


@dataclass(frozen=True, config=CHECKED)
class Visit:
    """The reply of `fedlens doctor`, which only tests the connection and then leaves."""


Reply = Description | Prepared | Refusal | Visit


def head(kind: str, setup: Setup | None, **fields: int | float | str | list[int]) -> ConfigRecord:
    """The head of a message to a site."""
    text = setup.to_json() if setup else ""
    return ConfigRecord({"protocol": PROTOCOL, "fedlens": version("fedlens"), "kind": kind, "setup": text, **fields})


def query(kind: Literal["describe", "prepare"], setup: Setup | None = None) -> RecordDict:
    """A message without tensors to a site."""
    return RecordDict({HEAD: head(kind, setup)})


def inquiry(registered: str, present: Sequence[int]) -> RecordDict:
    """Asks a site for its description, with what `fedlens doctor` shows: the server's Flower version and its time in
    Unix seconds, the name that the site's key stands for ("": no keys), and the partitions that are taken."""
    flower, clock = version("flwr"), time.time()
    about = head("describe", None, flwr=flower, clock=clock, registered=registered, present=list(present))
    return RecordDict({HEAD: about})


def reply(content: Reply) -> RecordDict:
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
        said = clean.line(repr(spoken), 20)
        raise ProtocolError(
            f"the other side speaks version {said} of FedLens' protocol, this one {PROTOCOL}: install the same "
            "FedLens on both"
        )
    return records[HEAD]


def read_reply(content: RecordDict) -> Reply | None:
    """A site's reply without tensors; None when it has some.

    Raises:
        ProtocolError: it cannot be read.
    """
    record = read_head(content)
    kinds: dict[str, type[Reply]] = {kind.__name__: kind for kind in (Description, Prepared, Refusal, Visit)}
    kind = kinds.get(str(record.get("is")))
    if kind is None:
        return None
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    try:
        return kind(**{key: values[key] for key in values.keys() - {"protocol", "is"}})  # type: ignore[arg-type]
    except ValidationError as error:
        raise ProtocolError(f"a {kind.__name__} that cannot be read: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """The first mistake: which field, and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return clean.line(f"{where}: {first['msg']}" if where else first["msg"])


def fingerprint(setup: Setup) -> str:
    """Short name of a setup, for folders and caches."""
    return hashlib.sha256(setup.to_json().encode()).hexdigest()[:16]
