"""An actor's side of the Ray runtime, and what travels to it and back."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedlens.core.types import Task
from fedlens.errors import RuntimeFailure
from fedlens.runtimes import wire
from fedlens.runtimes.worker import MakeTrainer, work
from fedlens.training.device import enough_memory
from fedlens.training.process import prepare_process

Parcel = tuple[bytes, list[Any]]
"""What `wire.pack` makes. Ray carries the buffers beside its own pickle, and gives read-only views of them."""


class RayWorker:
    """An actor: a process on any node with one trainer, which does tasks of any client."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        prepare_process()

    def place(self) -> str:
        return f"{socket.gethostname()} (process {os.getpid()})"

    def build(self, make_trainer: bytes, here: Path, probe: Path) -> bool:
        """Build the trainer in the folder `here`, where the run was started. True when this node sees `probe`."""
        if here.is_dir():
            os.chdir(here)
        self._trainer = torch.load(io.BytesIO(make_trainer), weights_only=False)()  # the run's own bytes, not a file
        return probe.exists()

    def work(self, tasks: Sequence[tuple[int, Task]], *payloads: Parcel) -> Parcel:
        """Do `tasks`, each of which names its payload by position; gives all outcomes at once."""
        states = [unpacked(payload) for payload in payloads]
        whole = [replace(task, payload=states[which]) for which, task in tasks]
        with enough_memory():
            return wire.pack(list(work(self._trainer, whole)))


def frozen(make_trainer: MakeTrainer, cloudpickle: Any) -> bytes:
    """`make_trainer` by value, so that a user's own classes need no module on the other side; each storage once.

    Raises:
        RuntimeFailure: something in a user's own model or data set cannot be serialised.
    """
    file = io.BytesIO()
    try:
        torch.save(make_trainer, file, pickle_module=cloudpickle, pickle_protocol=5)
    except Exception as error:  # a user's objects may raise anything
        raise RuntimeFailure(f"your own model or data set cannot be sent to Ray's actors: {error}") from error
    return file.getvalue()


def unpacked(parcel: Parcel) -> Any:
    """The message in memory of its own, because Ray's buffers are read-only."""
    head, buffers = parcel
    return wire.unpack(head, map(bytearray, buffers))
