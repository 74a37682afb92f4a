"""pfl-research (apple, `pfl` on PyPI): its own federated averaging at its fastest settings.

Started by `pfl_start.py`. Under `torchrun --nproc-per-node 2` its two processes share each cohort, and the GPU where
there is one. Its fastest settings: tensors that stay in the device's memory, no evaluation, no metrics sent to the
console, no sampling subprocess (all clients weigh the same, so dealing them out in turn balances the processes
already). pfl does not shuffle a client's images; nor does it average BatchNorm's running statistics. Both save it work.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.internal.ops.pytorch_ops import distributed
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from protocol import introduce, report, requests
from torch import Tensor, nn
from workload import WORKLOADS, clients, finished

ENDLESS = 10**9


class Trainable(nn.Module):
    """A network with the two methods that pfl asks for, and the training loss summed up on the way."""

    def __init__(self, network: nn.Module, device: str) -> None:
        super().__init__()
        self.network = network
        self.total, self.steps = torch.zeros((), device=device), 0

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(self.network(images), labels)
        self.total += loss.detach()
        self.steps += 1
        return loss

    def metrics(self, images: Tensor, labels: Tensor) -> dict[str, Weighted]:
        """pfl always evaluates in its first round: this makes that free."""
        return {"images": Weighted(len(labels), 1)}


class Turns(TrainingProcessCallback):  # type: ignore[misc]  # pfl is not in this environment
    """Times pfl's rounds on the first process and holds all processes until a round is asked for."""

    def __init__(self, module: Trainable, device: str) -> None:
        self.module, self.device = module, device
        self.requests = requests()
        self.number, self.started = 0, 0.0

    def wait(self) -> bool:
        """Wait for the next request; False when there will be none."""
        number = torch.tensor(next(self.requests, 0) if distributed.global_rank == 0 else 0)
        if distributed.world_size > 1:
            torch.distributed.broadcast(number, src=0)
        self.module.total.zero_()
        self.module.steps = 0
        self.number, self.started = int(number), time.perf_counter()
        return self.number > 0

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self.wait()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        finished(self.device)
        seconds = time.perf_counter() - self.started
        sums = torch.tensor([float(self.module.total), float(self.module.steps)])
        if distributed.world_size > 1:
            torch.distributed.all_reduce(sums)
        if distributed.global_rank == 0:
            report(self.number, seconds, float(sums[0] / sums[1]), int(sums[1]))
        return not self.wait(), Metrics()


def main(name: str, device: str) -> None:
    workload = WORKLOADS[name]
    if distributed.global_rank == 0:
        introduce("torch", "pfl")
    np.random.seed(0)
    data = clients(workload, device)
    training = FederatedDataset.from_slices(data, get_user_sampler("minimize_reuse", range(len(data))))
    module = Trainable(workload.build(device), device)
    model = PyTorchModel(
        module,
        local_optimizer_create=lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=workload.momentum),
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        NNAlgorithmParams(ENDLESS, evaluation_frequency=ENDLESS, train_cohort_size=workload.cohort, val_cohort_size=0),
        SimulatedBackend(training, training, postprocessors=[WeightByDatapoints()]),
        model,
        NNTrainHyperParams(
            local_batch_size=workload.batch, local_num_epochs=workload.epochs, local_learning_rate=workload.lr
        ),
        callbacks=[Turns(module, device)],
        send_metrics_to_platform=False,
    )
