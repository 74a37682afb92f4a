"""The floor to measure against: federated averaging as a bare, single-threaded PyTorch loop.

bare.py WORKLOAD DEVICE
"""

from __future__ import annotations

import sys
import time

import torch
from protocol import introduce, report, requests
from torch import Tensor, nn
from workload import WORKLOADS, Client, Workload, batches, clients, finished

State = dict[str, Tensor]


def train(model: nn.Module, client: Client, workload: Workload) -> tuple[float, int]:
    """SGD in place; gives the sum of the batches' losses and the number of steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.lr, momentum=workload.momentum)
    total, steps = client[1].new_zeros((), dtype=torch.float32), 0
    for images, labels in batches(client, workload):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        steps += 1
    return float(total), steps


def round_of(model: nn.Module, state: State, cohort: list[Client], workload: Workload) -> tuple[float, int]:
    """Train the cohort one after another from `state` and put the average of their models into `state`."""
    live = model.state_dict()
    average = {name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in state.items()}
    loss, steps = 0.0, 0
    for client in cohort:
        for name, tensor in live.items():
            tensor.copy_(state[name])
        client_loss, client_steps = train(model, client, workload)
        loss, steps = loss + client_loss, steps + client_steps
        for name, tensor in live.items():
            average[name].add_(tensor, alpha=1 / len(cohort))
    for name, tensor in average.items():
        state[name].copy_(tensor)
    return loss / steps, steps


def main() -> None:
    torch.set_num_threads(1)
    workload, device = WORKLOADS[sys.argv[1]], sys.argv[2]
    introduce("torch")
    data, model = clients(workload, device), workload.build(device)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number in requests():
        started = time.perf_counter()
        chosen = torch.randperm(len(data))[: workload.cohort]
        loss, steps = round_of(model, state, [data[index] for index in chosen], workload)
        finished(device)
        report(number, time.perf_counter() - started, loss, steps)


if __name__ == "__main__":
    main()
