"""The client of `flower_fedavg.py`, in a module of its own: Ray's actors import it by name."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn
from workload import WORKLOADS, Client, Workload, batches, clients, finished

app = ClientApp()


@lru_cache(maxsize=1)
def resident(workload: Workload, device: str) -> tuple[list[Client], nn.Module]:
    """The data and the model that a tuned client's process keeps between messages."""
    return clients(workload, device), workload.build(device)


def tuned(workload: Workload, device: str, partition: int) -> tuple[nn.Module, Iterable[tuple[Tensor, Tensor]]]:
    """The resident model, and shuffled batches sliced from tensors."""
    data, model = resident(workload, device)
    return model, batches(data[partition], workload)


def quick_start(workload: Workload, device: str, partition: int) -> tuple[nn.Module, Iterable[tuple[Tensor, Tensor]]]:
    """A new model, and a DataLoader over pictures."""
    from flower_pictures import loader

    pictures = loader(workload, partition)
    found = (batch for _ in range(workload.epochs) for batch in pictures)
    return workload.build(device), ((batch["image"].to(device), batch["label"].to(device)) for batch in found)


STYLES = {"tuned": tuned, "quick-start": quick_start}


@app.train()
def train(message: Message, context: Context) -> Message:
    """The client's part of a round."""
    settings = message.content["config"]
    workload, partition = WORKLOADS[str(settings["workload"])], int(context.node_config["partition-id"])
    device = str(settings["device"])
    model, data = STYLES[str(settings["style"])](workload, device, partition)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.lr, momentum=workload.momentum)
    total, steps = torch.zeros((), device=device), 0
    for images, labels in data:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        steps += 1
    finished(device)
    metrics = MetricRecord({"loss": float(total) / steps, "steps": steps, "num-examples": workload.images})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
