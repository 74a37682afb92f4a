"""A site's records: the journal of accepted tasks, and the outbox with a line for every message sent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedlens.core.files import append_line, to_json
from fedlens.errors import DataError
from fedlens.flower.internals.parts import Incoming


class Journal:
    """Accepted tasks, one file each in `folder`, from before the task is confirmed until its reply is sent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, incoming: Incoming, parts: dict[str, bytes], node: int) -> None:
        """Save a task; it is on the disk when this returns.

        Raises:
            DataError: it cannot be written (the disk is full, say).
        """
        import numpy as np

        held = {f"part.{name}": content for name, content in parts.items()}
        held |= {"envelope": incoming.envelope, "tree": incoming.tree}
        path = self._path(incoming)
        temporary = path.with_suffix(".tmp")
        arrays = {name: np.frombuffer(content, np.uint8) for name, content in held.items()}
        with _writing(path):
            save_file(arrays, temporary, metadata={"node": str(node)})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)

    def drop(self, incoming: Incoming) -> None:
        """Remove a task whose reply has been sent, or is not awaited any more."""
        self._path(incoming).unlink(missing_ok=True)

    def open(self, node: int) -> Iterator[tuple[Incoming, dict[str, bytes]]]:
        """The tasks that node `node` accepted and has not answered. Those of other nodes are removed: the server
        gives them to the node that came after."""
        for path in sorted(self._folder.glob("*.task")):
            try:
                with safe_open(path, "numpy") as file:
                    if (file.metadata() or {}).get("node") != str(node):
                        path.unlink()
                        continue
                    held = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - no mapping
            except (SafetensorError, OSError):  # cut off by a kill: it was never confirmed
                path.unlink(missing_ok=True)
                continue
            parts = {name.removeprefix("part."): value for name, value in held.items() if name.startswith("part.")}
            yield Incoming(held["envelope"], held["tree"]), parts

    def _path(self, incoming: Incoming) -> Path:
        return self._folder / f"{hashlib.sha256(incoming.message_id.encode()).hexdigest()[:32]}.task"


class Outbox:
    """One line of JSON for every message that leaves the site, appended and never rewritten."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def record(self, *, to: str, run: str, what: str, parts: dict[str, bytes]) -> int:
        """Record a message before it is sent: time, destination, run, kind, number of bytes and their SHA-256; gives
        that number. The hash is over the parts in the order of their names, which are hashes of their contents.

        Raises:
            DataError: it cannot be written; the message must not be sent then.
        """
        size = sum(map(len, parts.values()))
        digest = hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()
        time = datetime.now().astimezone().isoformat(timespec="milliseconds")
        line = to_json({"time": time, "to": to, "run": run, "what": what, "bytes": size, "sha256": digest})
        with _writing(self._path):
            append_line(self._path, line)
        return size


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"state_dir: {path} cannot be written ({error}): make room, and start the client again"
        ) from error
