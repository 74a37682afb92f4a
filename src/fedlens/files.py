"""Writing files so that a kill or a full disk leaves the old content or the new one, never a part."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


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
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Write `value` atomically as strict JSON (see `to_json`).

    Raises:
        OSError: as `write_atomic`.
    """
    write_atomic(path, to_json(value, indent=2) + "\n")


def mark_used(path: Path) -> None:
    """Set the time of change to now: the last use of what is kept in a cache. What may only be read keeps its time."""
    with suppress(OSError):
        os.utime(path)


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: the file cannot be read.
        json.JSONDecodeError: it is not JSON.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def to_json(value: object, indent: int | None = None) -> str:
    """JSON that every reader takes: NaN and infinities, which JSON lacks, become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
