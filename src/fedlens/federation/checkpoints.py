"""Checkpoints: everything that the next round needs, written whole or not at all.

    checkpoints/round-00000012/state.safetensors    the shared model (shared/…) and the strategy's state (extra/…)
    checkpoints/round-00000012/checkpoint.json      round, progress, store versions, pending tasks, SHA-256 of files
    checkpoints/model-00000011.safetensors          the payload of pending tasks of round 11
    checkpoints/best.safetensors                    the shared model with the lowest validation loss

A checkpoint is written under another name, flushed to disk and renamed, so a kill at any moment leaves the last
whole one. Random generators are not saved: every draw is derived from the run's seed, the round and the client. The
buffer of an asynchronous server is not saved either: a checkpoint follows the step that has emptied it.

The payload of pending tasks is written once, and stays as long as a checkpoint needs it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedlens.core.files import discard
from fedlens.core.types import PendingTask, State, Task, VirtualTime, prefixed, under
from fedlens.errors import CheckpointError
from fedlens.federation.stopping import Progress
from fedlens.strategies.base import ServerState
from fedlens.training.tasks.base import settings_adapter

STATE_FILE = "state.safetensors"
META_FILE = "checkpoint.json"
BEST_FILE = "best.safetensors"
MODEL_FILE = "model-{:08d}.safetensors"

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)
"""What reading a damaged checkpoint raises: a file is missing, not JSON, or JSON of another form."""


class _Damaged(ValueError):
    """A file is not as it was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A run after `round` rounds.

    versions       client → version of its private store at this checkpoint, None where it keeps nothing; for
                   every client whose update was ever counted
    finished       why the run ended before its last round, when it did
    virtual_time   where the virtual clock stands, where there is one
    pending_tasks  tasks at clients, of an asynchronous schedule
    kept           what the aggregator keeps from round to round
    """

    round: int
    state: ServerState
    progress: Progress = field(default_factory=Progress)
    versions: Mapping[str, int | None] = field(default_factory=dict)
    finished: str | None = None
    virtual_time: VirtualTime = field(default_factory=VirtualTime)
    pending_tasks: tuple[PendingTask, ...] = ()
    kept: State = field(default_factory=dict)

    def check_model(self, shared: State) -> None:
        """Check that this checkpoint fits the model whose shared part is `shared`; a Python program may have given it.

        Raises:
            CheckpointError: a tensor is missing, or has another shape.
        """
        kept = {name: tuple(value.shape) for name, value in self.state.shared.items()}
        there = {name: tuple(value.shape) for name, value in shared.items()}
        for name in sorted(kept.keys() | there.keys()):
            if kept.get(name) != there.get(name):
                here, saved = there.get(name, "missing"), kept.get(name, "missing")
                raise CheckpointError(
                    f"the model is not the one of this run: {name} is {here}, in the run {saved}; give the same one, "
                    "or start a new run if an older version of FedLens began this one"
                )


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._folder = folder
        self._keep = keep
        self._models: dict[int, str] = {}

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
            tensors |= prefixed("kept", checkpoint.kept)
            _save_tensors(temporary / STATE_FILE, tensors)
            meta = _meta(checkpoint) | {
                "sha256": _digest(temporary / STATE_FILE),
                "models": self._save_models(checkpoint.pending_tasks),
            }
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
        self._remove_models()

    def _save_models(self, pending_tasks: Sequence[PendingTask]) -> dict[int, str]:
        """Write the payloads of pending tasks that are not on disk yet; gives the SHA-256 of each file by round."""
        sent = {pending.task.round: pending.task.payload for pending in pending_tasks}
        for number in sent.keys() - self._models.keys():
            target = self._model(number)
            temporary = target.with_suffix(".tmp")
            _save_tensors(temporary, sent[number])
            temporary.replace(target)
            self._models[number] = _digest(target)
        return {number: self._models[number] for number in sorted(sent)}

    def _remove_models(self) -> None:
        """Remove payload files that no checkpoint refers to."""
        there = list(self._folder.glob("model-*"))
        needed = {self._model(number) for kept in self.rounds() for number in self._needs(kept)} if there else set()
        for file in set(there) - needed:
            file.unlink()
        self._models = {number: digest for number, digest in self._models.items() if self._model(number) in needed}

    def save_best(self, shared: State) -> None:
        """Keep the best shared model so far."""
        temporary = self._folder / f"{BEST_FILE}.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _save_tensors(temporary, shared)
            temporary.replace(self._folder / BEST_FILE)
        except (OSError, SafetensorError) as error:
            discard(temporary)
            raise CheckpointError(f"the best model could not be written to {self._folder}: {error}") from error

    def load_best(self) -> dict[str, Tensor] | None:
        """The best shared model, or None when none was kept."""
        path = self._folder / BEST_FILE
        return load_file(path) if path.exists() else None

    def rounds(self) -> list[int]:
        """The rounds that have a checkpoint, oldest first."""
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
            except UNREADABLE as error:
                note(f"checkpoint of round {number} is damaged ({_reason(error)}); taking the one before it")
        if rounds:
            raise CheckpointError(f"every checkpoint in {self._folder} is damaged: start the run again")
        return None

    def _load(self, number: int) -> Checkpoint:
        folder, meta = self._path(number), self._read(number)
        if _digest(folder / STATE_FILE) != meta["sha256"]:
            raise _Damaged(f"{STATE_FILE} does not match its SHA-256")
        tensors = load_file(folder / STATE_FILE)
        return Checkpoint(
            meta["round"],
            ServerState(under("shared", tensors), under("extra", tensors)),
            Progress(**meta["progress"]),
            meta["versions"],
            meta["finished"],
            VirtualTime(**meta["virtual_time"]),
            self._load_pending(meta),
            under("kept", tensors),
        )

    def _load_pending(self, meta: Mapping[str, Any]) -> tuple[PendingTask, ...]:
        models: dict[int, State] = {}
        for text, digest in meta["models"].items():
            number = int(text)
            if _digest(self._model(number)) != digest:
                raise _Damaged(f"{self._model(number).name} does not match its SHA-256")
            models[number] = load_file(self._model(number))
            self._models[number] = digest
        return tuple(
            PendingTask(
                Task(
                    pending["client"],
                    pending["round"],
                    pending["kind"],
                    models[pending["round"]],
                    settings_adapter(pending["kind"]).validate_python(pending["settings"]),
                    pending["store_version"],
                    unaggregated=True,
                ),
                pending["number"],
                pending["due"],
            )
            for pending in meta["pending_tasks"]
        )

    def _read(self, number: int) -> dict[str, Any]:
        meta: dict[str, Any] = json.loads((self._path(number) / META_FILE).read_bytes())
        return meta

    def _needs(self, number: int) -> list[int]:
        """The rounds whose models a checkpoint refers to; none when it is damaged."""
        try:
            return [int(text) for text in self._read(number)["models"]]
        except UNREADABLE:
            return []

    def _model(self, number: int) -> Path:
        return self._folder / MODEL_FILE.format(number)

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number:08d}"


def _reason(error: Exception) -> str:
    """Why a checkpoint cannot be read, for a person: not what a decoder says of bytes."""
    if isinstance(error, OSError):
        return f"{Path(error.filename or STATE_FILE).name}: {error.strerror}"
    if isinstance(error, SafetensorError):
        return f"{STATE_FILE} cannot be read"
    return str(error) if isinstance(error, _Damaged) else f"{META_FILE} cannot be read"


def _meta(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "round": checkpoint.round,
        "progress": asdict(checkpoint.progress),
        "versions": dict(checkpoint.versions),
        "finished": checkpoint.finished,
        "virtual_time": asdict(checkpoint.virtual_time),
        "pending_tasks": [_pending_task(pending) for pending in checkpoint.pending_tasks],
    }


def _pending_task(pending: PendingTask) -> dict[str, object]:
    task = pending.task
    return {
        "client": task.client,
        "round": task.round,
        "kind": task.kind,
        "settings": asdict(task.settings),
        "store_version": task.store_version,
        "number": pending.number,
        "due": pending.due,
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
