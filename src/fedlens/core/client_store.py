"""The client store: the tensors that a client keeps between rounds, on its own side, in a folder of its name.

Each version is one file. Earlier versions are kept for a while, because a server that was killed may resume from a
round before the client's newest one.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedlens.core.files import STAGES, discard
from fedlens.core.types import Stage, State
from fedlens.errors import CheckpointError

OWNER_ONLY = 0o700
"""Permissions of the folder for stages, which may hold secrets."""


class ClientStore:
    """Private tensors of many clients in one folder. A version counts the client's updates that the server used.

    `keep` versions stay. A server with k checkpoints on disk, whose rounds count up to n updates of one client, needs
    (k + 2) n: while one round trains, the checkpoint of the round before may still be on its way to the disk.
    """

    def __init__(self, folder: Path, keep: int = 4) -> None:
        self._folder = folder
        self._keep = keep

    def open(self, client: str, store_version: int | None) -> dict[str, Tensor]:
        """The tensors of version `store_version`; newer versions are removed. Empty for None.

        Raises:
            CheckpointError: that version is not there.
        """
        for version, path in self._versions(client).items():
            if store_version is None or version > store_version:
                path.unlink()
        return self.read(client, store_version)

    def read(self, client: str, store_version: int | None) -> dict[str, Tensor]:
        """The tensors of version `store_version`; no version is removed. Empty for None.

        Raises:
            CheckpointError: that version is not there.
        """
        if store_version is None:
            return {}
        path = self._path(client, store_version)
        if not path.exists():
            raise CheckpointError(
                f"client {client!r} has no private state of version {store_version} ({path} is missing)"
            )
        return load_file(path)

    def save(self, client: str, version: int, tensors: State) -> None:
        """Write a version atomically, and remove the oldest beyond `keep`.

        Raises:
            CheckpointError: it cannot be written (a full disk, say); the versions before it stay.
        """
        path = self._path(client, version)
        temporary = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            discard(temporary)
            raise CheckpointError(
                f"the private state of client {client!r} could not be written to {path}: {error}. Make room, then "
                "`fedlens resume`"
            ) from error
        for old in sorted(self._versions(client))[: -self._keep]:
            self._path(client, old).unlink()

    def folder(self, client: str) -> Path:
        """The client's folder; what else is put there, no version replaces."""
        return self._folder / quote(client, safe="")

    def stage(self, client: str, round_number: int, stage: Stage) -> StageStore:
        """The store for the stages of one round, a file in the client's folder: so the next stage can run in another
        process, or after a restart."""
        return StageStore(self._stage_path(client, round_number, stage), last=stage.last)

    def begin_stage(self, client: str, round_number: int, stage: Stage) -> None:
        """Remove the files of other rounds and attempts; in the first stage, this round's file as well."""
        own = self._stage_path(client, round_number, stage)
        for path in own.parent.glob("*"):
            if stage.number == 0 or path != own:
                path.unlink()

    def _stage_path(self, client: str, round_number: int, stage: Stage) -> Path:
        return self._path(client, 0).parent / STAGES / f"{round_number:08d}-{stage.attempt}.safetensors"

    def _path(self, client: str, version: int) -> Path:
        return self.folder(client) / f"{version:08d}.safetensors"

    def _versions(self, client: str) -> dict[int, Path]:
        return {int(path.stem): path for path in self._path(client, 0).parent.glob("*.safetensors")}


class StageStore:
    """Tensors that a client keeps from one stage of a round to the next."""

    def __init__(self, path: Path, *, last: bool) -> None:
        self._path = path
        self._last = last

    def read(self) -> dict[str, Tensor]:
        """The tensors that the stage before saved; empty in the first stage."""
        return load_file(self._path) if self._path.exists() else {}

    def save(self, tensors: State) -> None:
        """Save `tensors` for the next stage.

        Raises:
            CheckpointError: they cannot be written.
        """
        temporary = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
            temporary.replace(self._path)
        except (OSError, SafetensorError) as error:
            discard(temporary)
            raise CheckpointError(f"{self._path} could not be written: {error}. Make room, then resume") from error

    def close(self, *, failed: bool = False) -> None:
        """Remove the saved tensors after the last stage, and where the client has failed: it has no further part."""
        if self._last or failed:
            self._path.unlink(missing_ok=True)
