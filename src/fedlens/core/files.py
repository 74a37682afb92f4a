"""Files written in one step (a kill or a full disk leaves the old content or the new one), and read within bounds."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fedlens.errors import ConfigError

STAGES = "stages"
"""The folder of what a client keeps between the stages of a round, in the client's own folder; it may hold secrets."""


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` (text is UTF-8) in one step.

    The bytes go to a temporary file in the same folder, reach the disk, and then take the name.

    Raises:
        OSError: the disk is full, the folder is missing or not writable; `path` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        discard(temporary)
        raise


@contextmanager
def writing(option: str, path: Path, kind: str = "file") -> Iterator[None]:
    """For what an option of the command line asks to be written. kind: "file" or "folder".

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: cannot be written ({error.strerror}); give another {kind}",
            code="unwritable",
            key=str(path),
        ) from error


def append_line(path: Path, line: str) -> None:
    """Append `line` to a text file, and have it on the disk before this returns.

    Raises:
        OSError: the disk is full, the folder is missing or not writable.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def discard(temporary: Path) -> None:
    """Remove what is left of a failed write, where that is possible: the write's own error is the one to be told."""
    with suppress(OSError):
        temporary.unlink()


@contextmanager
def open_regular(path: Path, at_most: int | None = None) -> Iterator[BinaryIO]:
    """Open `path` for reading, if it is a regular file of at most `at_most` bytes (None: no limit).

    A pipe, a socket or a device can block for ever, or has no end; none of them is opened for longer than it takes to
    see what it is. A link is followed.

    Raises:
        OSError: it cannot be opened, is no regular file, or is longer; `strerror` is a reason to show.
    """
    with open(path, "rb", opener=_open_at_once) as opened:
        found = os.fstat(opened.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, f"{_kind(found.st_mode)}, not a regular file", str(path))
        if at_most is not None and found.st_size > at_most:
            reason = f"the file is {found.st_size:,} bytes long, and at most {at_most:,} are read"
            raise OSError(errno.EFBIG, reason, str(path))
        yield opened


def is_file(path: Path | str) -> bool:
    """Whether `path` is a file; a path that is too long or not valid counts as no file."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # longer than a name may be; a zero byte
        return False


def read_regular(path: Path, at_most: int | None = None) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path, at_most) as file:  # to be told a size, `read` takes the memory for all of it first
        return file.read() if at_most is None else file.read(min(at_most, os.fstat(file.fileno()).st_size))


def _open_at_once(path: str, flags: int) -> int:
    """Checked before opening, because opening a pipe blocks until a process writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _kind(mode: int) -> str:
    """The kind of a file that is not a regular one, in words."""
    return "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """Write `value` atomically as strict JSON (see `to_json`). Without `indent` it is one line, which is much faster:
    for what grows with the clients.

    Raises:
        OSError: as `write_atomic`.
    """
    write_atomic(path, to_json(value, indent) + "\n")


def mark_used(path: Path) -> None:
    """Set the modification time to now: a cache takes it as the time of last use. Read-only files keep theirs."""
    with suppress(OSError):
        os.utime(path)


LONGEST_JSON = 256_000_000
"""Bytes of a JSON file that are read at most: several times what the largest partition takes."""


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: the file cannot be read, is no regular file, or is longer than `LONGEST_JSON`.
        json.JSONDecodeError: it is not JSON.
    """
    return parse_json(read_regular(path, LONGEST_JSON))


def parse_json(text: bytes | str) -> Any:
    """The value of a JSON text that may come from anybody.

    Raises:
        json.JSONDecodeError: it is not JSON in UTF-8, is nested deeper than Python can read, or holds an integer of
            thousands of digits.
    """
    from pydantic_core import from_json

    with suppress(ValueError):
        return from_json(text)  # takes half of the time of json, which says better what is wrong
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise json.JSONDecodeError(reason, "", 0) from error


def to_json(value: object, indent: int | None = None) -> str:
    """JSON that every reader takes: NaN and infinities, which JSON lacks, become null."""
    written = partial(json.dumps, indent=indent, allow_nan=False, ensure_ascii=False)
    try:
        return written(value)
    except (TypeError, ValueError):  # seldom, and to look for it first takes longer than to write
        return written(_finite(value))


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
