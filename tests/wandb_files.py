"""What Weights & Biases wrote offline, read back: its reader is inside `wandb-core`, and has no interface for programs.

A .wandb file is a header of 7 bytes and then LevelDB's log: blocks of 32 KiB with records, each with a checksum of 4
bytes, a length of 2 and a type (whole, first, middle, last part). A record is a protobuf of `wandb_internal.proto`.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = 7
BLOCK = 32768
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(folder: Path) -> list[Any]:
    """All records of a run that has ended: `wandb-core` may still be writing the last ones."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("run-*.wandb")
    deadline = time.monotonic() + 60
    while True:
        found = [Record.FromString(content) for content in _contents(file.read_bytes())]
        if found and found[-1].HasField("exit"):
            return found
        assert time.monotonic() < deadline, "no record of the end"
        time.sleep(0.02)


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows of `run.log`, nested keys with slashes."""
    rows = [record.history for record in records(folder) if record.HasField("history")]
    return [{_key(item): json.loads(item.value_json) for item in row.item} for row in rows]


def config(folder: Path) -> dict[str, Any]:
    """The configuration as the last record of each key says it."""
    found: dict[str, Any] = {}
    for record in records(folder):
        for part in (record.config, record.run.config):
            found |= {_key(item): json.loads(item.value_json) for item in part.update}
    return found


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records(folder):
        for part in (record.summary, record.run.summary):
            found |= {_key(item): json.loads(item.value_json) for item in part.update}
    return found


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _contents(data: bytes) -> Iterator[bytes]:
    place, parts = HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # the end of a block has no room for another record
            place += BLOCK - place % BLOCK
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", data, place)
        content = data[place + HEADER : place + HEADER + length]
        if len(content) < length:
            return
        place += HEADER + length
        parts = content if kind in (WHOLE, FIRST) else parts + content
        if kind in (WHOLE, LAST):
            yield parts
