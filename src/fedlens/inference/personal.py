"""A client's personal model: the shared part from the run's last checkpoint, the private part from the client store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedlens.build.builders import build_plan
from fedlens.build.experiment import Experiment, build_experiment
from fedlens.build.load import load_saved
from fedlens.config.blocks import PYTHON
from fedlens.core.types import Task, TaskSettings
from fedlens.core.words import nearest
from fedlens.data.types import FederatedData
from fedlens.errors import ModelError
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.tracking.observer import Silent
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.saved import Partition, read_saved
from fedlens.training.device import enough_memory

_MOST_NAMES = 10


@dataclass(frozen=True)
class PersonalModel:
    """model: in eval mode, on the CPU; images: those it was trained on; remark: what its user should know, or ""."""

    model: nn.Module
    images: FederatedData
    remark: str


@enough_memory()
def open_personal(
    run: RunDir,
    client: str,
    *,
    model: nn.Module | None = None,
    data: FederatedData | None = None,
) -> PersonalModel:
    """The model of `client`. Of a run with a `model` or `data` from Python, the same have to be given.

    Raises:
        ModelError: no such client, no finished round, or the clients live elsewhere.
        FedLensError: the images or the client's stored tensors are missing.
    """
    check_client(run, client)
    experiment, checkpoint = reopened(run, model, data)
    load_own(experiment, checkpoint, client)
    return PersonalModel(
        experiment.model.to("cpu").eval(), experiment.images, _remark(experiment, client, client in checkpoint.versions)
    )


def reopened(
    run: RunDir, model: nn.Module | None = None, data: FederatedData | None = None
) -> tuple[Experiment, Checkpoint]:
    """A run built again, and its newest checkpoint.

    Raises:
        ModelError: no finished round, the clients live elsewhere, or the images are others.
    """
    checkpoint, config = _checkpoint(run), load_saved(run.config)
    if data is None and config.data.source == PYTHON:
        raise ModelError(
            f"{run.path}: the run's images were given from Python; give them again: "
            "fedlens.load_run(…).model_of(client, data=…)"
        )
    experiment = build_experiment(config, run.path, Silent().progress, model=model, data=data)
    if read_saved(run.fingerprint, str) != experiment.images.cache_key:
        raise ModelError(f"{run.path}: the images are not those of this run; put them back")
    if not run.divides(experiment.images):
        raise ModelError(
            f"{run.path}: the images are divided among the clients in another way than when this run was made, "
            "which was perhaps with an older version of FedLens: make the run again"
        )
    checkpoint.check_model(experiment.shared)
    return experiment, checkpoint


def load_own(experiment: Experiment, checkpoint: Checkpoint, client: str) -> None:
    """Load the model that the client uses."""
    settings = TaskSettings(lr=build_plan(experiment.config).lr(checkpoint.round))
    version = checkpoint.versions.get(client)
    experiment.trainer.load_client_model(
        Task(client, checkpoint.round, "evaluate", checkpoint.state.shared, settings, version)
    )


def clients_of(run: RunDir) -> list[str]:
    """The names of a run's clients, in order; none before the run has begun."""
    partition: Mapping[str, Any] = read_saved(run.partition, Partition) if run.partition.exists() else {}
    return list(partition.get("clients", ()))


def some(names: list[str]) -> str:
    """The first few of them."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def check_client(run: RunDir, client: str) -> None:
    """Raises ModelError: the run has no such client."""
    names = clients_of(run)
    if client not in names:
        near = nearest(client, names)
        hint = f" Did you mean {near}?" if near else ""
        raise ModelError(f"client = {client!r}: no client of {run.path}.{hint} Known: {some(names) or 'none yet'}")


def _checkpoint(run: RunDir) -> Checkpoint:
    """The newest checkpoint.

    Raises:
        ModelError: there is none, or what clients keep is elsewhere.
    """
    if run.superlink.exists():
        raise ModelError(f"{run.path}: what its clients keep is on their own machines and never comes here")
    found = Checkpoints(run.checkpoints).latest(Silent().note)
    if found is None and run.result.exists():
        raise ModelError(
            f"{run.path}: its checkpoints were removed, and with them what its clients used. Its shared model is "
            "there: leave the client out; for anything else make the run again"
        )
    if found is None:
        raise ModelError(f"{run.path}: no round has finished, so there is no model yet")
    return found


def _remark(experiment: Experiment, client: str, sampled: bool) -> str:
    config = experiment.config.personalization
    if config.name == "none":
        return "personalization.name is none: every client uses the shared model"
    if sampled:
        return ""
    if not experiment.trainer.shared:
        return f"{client} was never sampled: its model is as it was before training"
    rest = ", with its private parts as they were before training" if experiment.partly_private else ""
    return f"{client} was never sampled: its model starts from the shared one{rest}"
