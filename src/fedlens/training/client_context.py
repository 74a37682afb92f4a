"""Builds a strategy's `ClientContext`, both at a client and where a server derives what an honest result looks like."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fedlens.core.types import State, Task
from fedlens.strategies.base import ClassFeatures, ClientContext
from fedlens.training.flat import FlatModel
from fedlens.training.optimizers.sgd import SGD
from fedlens.training.settings import LocalSettings


def client_context(
    model: FlatModel,
    task: Task,
    settings: LocalSettings,
    *,
    examples: int,
    steps: int,
    private: frozenset[str],
    start: Tensor,
    loss: float,
    client_state: State,
    class_features: Callable[[], ClassFeatures],
) -> ClientContext:
    """The context of a training task whose payload is already decoded. `private`: names of private tensors."""

    def unflatten(vector: Tensor) -> dict[str, Tensor]:
        return {name: value for name, value in model.unflatten(vector).items() if name not in private}

    optimizer, names = settings.optimizer, model.names
    return ClientContext(
        round=task.round,
        client=task.client,
        examples=examples,
        steps=steps,
        lr=task.settings.lr,
        momentum=optimizer.momentum if isinstance(optimizer, SGD) else None,
        start=start,
        module=model.module,
        loss=loss,
        received={name: value for name, value in task.payload.items() if name not in names},
        client_state=client_state,
        class_features=class_features,
        flatten=model.flatten,
        unflatten=unflatten,
    )
