"""Where the clients of an experiment run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fedlens.build.builders import build_plan
from fedlens.build.experiment import Experiment
from fedlens.config.blocks import CLOCK, PRIVACY, SCHEDULE
from fedlens.config.schema import Config
from fedlens.core.machine import cores
from fedlens.core.types import ClientInfo
from fedlens.data.types import FederatedData
from fedlens.errors import ConfigError, DataError
from fedlens.runtimes.base import Runtime
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.runtimes.local import LocalRuntime, may_inherit
from fedlens.runtimes.ray import RayRuntime
from fedlens.runtimes.virtual import VirtualRuntime
from fedlens.runtimes.worker import MakeTrainer
from fedlens.schedules.base import Asynchronous


def check_clients(config: Config, clients: Sequence[str]) -> None:
    """Check before the run starts that it can work with these clients.

    Raises:
        NotEnoughClients, ConfigError, DataError: why not.
    """
    round_size, edges = build_plan(config).sampler.size(len(clients)), config.federated.edges
    if edges > len(clients):
        raise ConfigError(
            f"federated.edges = {edges}: the data has {len(clients)} clients, so some edges would have none; "
            f"use at most {len(clients)}, or more clients (data.partition.clients)",
            code="incompatible",
            key="federated.edges",
        )
    unknown = CLOCK.choose(config.clock).incompatibility(clients)
    if unknown:
        raise DataError(f"clock.{unknown}")
    schedule = SCHEDULE.choose(config.schedule)
    if not isinstance(schedule, Asynchronous):
        if config.federated.quorum > round_size:
            raise ConfigError(
                f"federated.quorum = {config.federated.quorum}: a round has only {round_size} clients; use at most "
                f"{round_size}, or more clients a round (federated.fraction_fit, federated.min_fit_clients)",
                code="incompatible",
                key="federated.quorum",
            )
        return
    concurrency = schedule.concurrency or round_size
    if concurrency > len(clients):
        raise ConfigError(
            f"schedule.concurrency = {concurrency}: the data has {len(clients)} clients, which do one task at a time; "
            f"use at most {len(clients)}, or more clients (data.partition.clients)",
            code="incompatible",
            key="schedule.concurrency",
        )
    buffer = schedule.buffer(concurrency)
    if buffer > concurrency:
        raise ConfigError(
            f"schedule.buffer_size = {buffer}: only {concurrency} clients work at a time; use at most "
            f"{concurrency}, or a higher schedule.concurrency",
            code="contradiction",
            key="schedule.buffer_size",
        )


def client_infos(data: FederatedData, device: torch.device) -> list[ClientInfo]:
    """How each client introduces itself."""
    held, name = data.holdings, str(device)
    return [
        ClientInfo(
            client.name,
            index,
            {split: counts[index] for split, counts in held.counts.items()},
            name,
            unlabelled=held.unlabelled[index],
        )
        for index, client in enumerate(data.clients)
    ]


def build_runtime(experiment: Experiment, rebuild: MakeTrainer) -> Runtime:
    """Where the clients run, on a virtual clock if need be. `rebuild` makes a trainer again in a process that cannot
    inherit this one's."""
    config, runtime = experiment.config, build_real_runtime(experiment, rebuild)
    clock, schedule = CLOCK.choose(config.clock), SCHEDULE.choose(config.schedule)
    if clock.virtual or isinstance(schedule, Asynchronous):
        return VirtualRuntime(runtime, clock, config.seed)
    return runtime


def build_real_runtime(experiment: Experiment, rebuild: MakeTrainer) -> Runtime:
    section, device = experiment.config.runtime, experiment.device
    clients = client_infos(experiment.train_data, device)
    if section.name == "ray":
        return RayRuntime(
            clients,
            rebuild,
            address=section.address,
            workers=section.named_workers,
            threads_per_worker=section.threads_per_worker,
            gpu=device.type == "cuda",
            folder=experiment.folder,
            ledgers=PRIVACY.choose(experiment.config.privacy).ledgers,
        )
    gpus = torch.cuda.device_count() if device == torch.device("cuda") else 0  # any of them
    workers = section.named_workers or (cores() if device.type == "cpu" else 1)
    workers = min(workers, len(clients))
    if section.name == "in_process" or (workers == 1 and device.type != "cpu"):
        return InProcessRuntime(clients, lambda: experiment.trainer)
    inherits = device.type == "cpu" and section.threads_per_worker == 1 and may_inherit()
    unknown = [] if inherits else notebook_classes(experiment.model)
    if unknown:
        raise ConfigError(
            f"runtime.name='local': worker processes cannot import {', '.join(unknown)}, defined in this session; put "
            "it into a file, or use runtime.name=in_process",
            code="incompatible",
            key="runtime.name",
        )
    return LocalRuntime(
        clients,
        (lambda: experiment.trainer) if inherits else rebuild,
        workers=workers,
        threads_per_worker=section.threads_per_worker,
        start_method="fork" if inherits else "spawn",
        gpus=gpus,
    )


def notebook_classes(model: nn.Module) -> list[str]:
    """Classes in `model` that other processes cannot import: those of a function, or of a main module with no file."""
    session = not Path(getattr(sys.modules["__main__"], "__file__", "")).is_file()
    kinds = {type(part) for part in model.modules()}
    return sorted(
        kind.__name__
        for kind in kinds
        if "<locals>" in kind.__qualname__ or (session and kind.__module__ == "__main__")
    )
