"""BlazeFL's own federated averaging, in processes or in threads.

    blazefl_fedavg.py WORKLOAD DEVICE processes|threads NUMBER

It makes its processes anew in every round; its threads are meant for a Python without a global lock. It has no
momentum, and it does not report a training loss, so the loss here is the new model's on a client's images, computed
after the clock has stopped. Its models have PyTorch's default memory layout, because it flattens tensors with `view`.
Batches are sliced from tensors, which lie on the device, or, for processes, in memory that they share.
"""

from __future__ import annotations

import sys
import tempfile
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from blazefl.contrib import FedAvgBaseServerHandler, FedAvgProcessPoolClientTrainer, FedAvgThreadPoolClientTrainer
from blazefl.core import IPCMode
from protocol import introduce, report, requests
from torch import Generator, Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from workload import WORKLOADS, Workload, everybody, finished

ENDLESS = 10**9


@lru_cache
def untrained(name: str) -> nn.Module:
    return replace(WORKLOADS[name], textbook=True).build()


class Models:
    """Gives the workload's model, by the workload's name."""

    def select_model(self, name: str) -> nn.Module:
        return deepcopy(untrained(name))


@dataclass(frozen=True)
class Images:
    """Everybody's images, `share` of them each, as BlazeFL asks for them."""

    images: Tensor
    labels: Tensor
    share: int

    def of(self, client: int) -> TensorDataset:
        rows = slice(client * self.share, (client + 1) * self.share)
        return TensorDataset(self.images[rows], self.labels[rows])

    def get_dataloader(
        self, type_: str, cid: int, batch_size: int, generator: Generator
    ) -> DataLoader[tuple[Tensor, ...]]:
        mine = self.of(cid)
        order = BatchSampler(RandomSampler(mine, generator=generator), batch_size, drop_last=False)
        return DataLoader(mine, sampler=order, batch_size=None)

    def set_dataset(self, type_: str, cid: int, dataset: TensorDataset) -> None:
        """A client's images stay the same."""


def loss_of(model: nn.Module, data: Images, device: str) -> float:
    images, labels = (tensor.to(device) for tensor in data.of(0).tensors)
    with torch.no_grad():
        return float(nn.functional.cross_entropy(deepcopy(model).to(device).train()(images), labels))


def trainer(mode: str, number: int, workload: Workload, common: dict[str, Any], folder: Path) -> Any:
    """BlazeFL's own, of this mode."""
    common = {**common, "epochs": workload.epochs, "lr": workload.lr, "num_parallels": number}
    if mode == "threads":
        return FedAvgThreadPoolClientTrainer(Models(), **common)
    folders = {"share_dir": folder / "share", "state_dir": folder / "state"}
    return FedAvgProcessPoolClientTrainer(Models(), ipc_mode=IPCMode.SHARED_MEMORY, **folders, **common)


def main() -> None:
    workload, device, mode, number = WORKLOADS[sys.argv[1]], sys.argv[2], sys.argv[3], int(sys.argv[4])
    if workload.momentum:
        raise SystemExit(f"BlazeFL trains without momentum, which {workload.name} has: take cifar or resnet18")
    introduce("torch", "blazefl")
    pictures, labels = everybody(workload, device if mode == "threads" else "cpu")
    data = Images(pictures.contiguous(), labels, workload.images)
    if mode == "processes":
        data.images.share_memory_()
        data.labels.share_memory_()
    common: dict[str, Any] = {
        "model_name": workload.name,
        "dataset": data,
        "num_clients": workload.clients,
        "device": device,
        "batch_size": workload.batch,
        "seed": 0,
    }
    share = workload.cohort / workload.clients
    server = FedAvgBaseServerHandler(Models(), global_round=ENDLESS, sample_ratio=share, **common)
    with tempfile.TemporaryDirectory() as folder:
        clients = trainer(mode, number, workload, common, Path(folder))
        for turn in requests():
            started = time.perf_counter()
            clients.local_process(server.downlink_package(), server.sample_clients())
            answers = clients.uplink_package()
            for answer in answers:
                server.load(answer)
            finished(device)
            seconds = time.perf_counter() - started
            steps = sum(answer.data_size // workload.batch for answer in answers)
            report(turn, seconds, loss_of(server.model, data, device), steps)


if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    main()
