"""Checkpoints: everything that the next round needs, written whole or not at all.

    checkpoints/round-00000012/state.safetensors    the shared model (shared/…) and the strategy's state (extra/…)
    checkpoints/round-00000012/checkpoint.json      round, progress, client versions, SHA-256 of the state file
    checkpoints/best.safetensors                    the shared model with the lowest validation loss

A checkpoint is written under another name, flushed to disk and renamed, so a kill at any moment leaves the last
whole one. Randomness needs no state: every draw is derived from the run's seed, the round and the client.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedlens.errors import CheckpointError
from fedlens.federation.schedule import Progress
from fedlens.federation.types import State
from fedlens.strategies.base import ServerState, prefixed, under

STATE_FILE = "state.safetensors"
META_FILE = "checkpoint.json"
BEST_FILE = "best.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A run after `round` rounds. `versions`: every client whose update was ever counted, with the version of its
    private store that goes with this checkpoint (None: it keeps nothing).
    `finished` says why the run ended before its last round, when it did."""

    round: int
    state: ServerState
    progress: Progress = field(default_factory=Progress)
    versions: Mapping[str, int | None] = field(default_factory=dict)
    finished: str | None = None


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._folder = folder
        self._keep = keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and remove the oldest beyond `keep`.

        Raises:
            CheckpointError: it cannot be written (a full disk, say); the ones before it stay.
        """
        target = self._path(checkpoint.round)
        temporary = target.with_suffix(".tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            tensors = prefixed("shared", checkpoint.state.shared) | prefixed("extra", checkpoint.state.extra)
            _save_tensors(temporary / STATE_FILE, tensors)
            meta = _meta(checkpoint) | {"sha256": _digest(temporary / STATE_FILE)}
            _write_flushed(temporary / META_FILE, json.dumps(meta).encode())
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
            _flush(self._folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"the checkpoint of round {checkpoint.round} could not be written to {target}: {error}. The last good "
                "one is kept: make room, then `fedlens resume`"
            ) from error
        for old in self.rounds()[: -self._keep]:
            shutil.rmtree(self._path(old), ignore_errors=True)

    def save_best(self, shared: State) -> None:
        """Keep the best shared model so far."""
        temporary = self._folder / f"{BEST_FILE}.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _save_tensors(temporary, shared)
            temporary.replace(self._folder / BEST_FILE)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise CheckpointError(f"the best model could not be written to {self._folder}: {error}") from error

    def load_best(self) -> dict[str, Tensor] | None:
        """The best shared model, or None when none was kept."""
        path = self._folder / BEST_FILE
        return load_file(path) if path.exists() else None

    def rounds(self) -> list[int]:
        """The rounds of which there is a checkpoint, oldest first."""
        names = [path.name for path in self._folder.glob("round-*") if not path.suffix]
        return sorted(int(name.removeprefix("round-")) for name in names)

    def latest(self, note: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint; `note` is told of damaged ones, which are passed over. None: there is none.

        Raises:
            CheckpointError: there are checkpoints, and every one is damaged.
        """
        rounds = self.rounds()
        for number in reversed(rounds):
            try:
                return self._load(number)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                note(f"checkpoint of round {number} is damaged ({error}); taking the one before it")
        if rounds:
            raise CheckpointError(f"every checkpoint in {self._folder} is damaged: start the run again")
        return None

    def _load(self, number: int) -> Checkpoint:
        folder = self._path(number)
        meta = json.loads((folder / META_FILE).read_bytes())
        if _digest(folder / STATE_FILE) != meta["sha256"]:
            raise ValueError(f"{STATE_FILE} does not match its SHA-256")
        tensors = load_file(folder / STATE_FILE)
        state = ServerState(under("shared", tensors), under("extra", tensors))
        return Checkpoint(meta["round"], state, Progress(**meta["progress"]), meta["versions"], meta["finished"])

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number:08d}"


def _meta(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "round": checkpoint.round,
        "progress": asdict(checkpoint.progress),
        "versions": dict(checkpoint.versions),
        "finished": checkpoint.finished,
    }


def _save_tensors(path: Path, tensors: State) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    _flush(path)


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(path: Path) -> None:
    """Have the system write a file or folder to disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
