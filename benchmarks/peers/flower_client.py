"""The client of `flower_fedavg.py`, in a module of its own: Ray's actors import it by name."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn
from workload import WORKLOADS, Client, Workload, clients

app = ClientApp()


@lru_cache(maxsize=1)
def resident(workload: Workload) -> tuple[list[Client], nn.Module]:
    """The data and the model that a tuned client's process keeps between messages."""
    return clients(workload), workload.build()


def tuned(workload: Workload, partition: int) -> tuple[nn.Module, Iterable[tuple[Tensor, Tensor]]]:
    """The resident model, and shuffled batches sliced from tensors."""
    data, model = resident(workload)
    images, labels = data[partition]
    batches = torch.randperm(len(labels)).split(workload.batch)
    return model, ((images[rows], labels[rows]) for rows in batches)


def quick_start(workload: Workload, partition: int) -> tuple[nn.Module, Iterable[tuple[Tensor, Tensor]]]:
    """A new model, and a DataLoader over pictures."""
    from flower_pictures import loader

    return workload.build(), ((batch["image"], batch["label"]) for batch in loader(workload, partition))


STYLES = {"tuned": tuned, "quick-start": quick_start}


@app.train()
def train(message: Message, context: Context) -> Message:
    """One local epoch."""
    settings = message.content["config"]
    workload, partition = WORKLOADS[str(settings["workload"])], int(context.node_config["partition-id"])
    model, batches = STYLES[str(settings["style"])](workload, partition)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.lr, momentum=workload.momentum)
    total, steps = torch.zeros(()), 0
    for images, labels in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        steps += 1
    metrics = MetricRecord({"loss": float(total) / steps, "steps": steps, "num-examples": workload.images})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
