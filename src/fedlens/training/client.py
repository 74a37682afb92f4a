"""One client's work on one task, in a resident model that plays any client in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
import torch

from fedlens.aggregation.norms import l2_norm
from fedlens.data.types import ClientRows, FederatedData
from fedlens.federation.client_store import ClientStore
from fedlens.federation.types import Answer, ClientFailure, Mean, Report, State, Task
from fedlens.seeds import derive
from fedlens.strategies.base import Contribution, LocalContext, Strategy, prefixed, under
from fedlens.training.evaluation import evaluate
from fedlens.training.examples import Augment, Examples, Prepare
from fedlens.training.flat import FlatModel
from fedlens.training.loop import LocalLoop
from fedlens.training.optimizers import make_optimizer
from fedlens.training.settings import LocalSettings


class ClientTrainer:
    """Runs tasks of any client: restores the model in place, trains or evaluates, gives the answer."""

    def __init__(
        self,
        model: FlatModel,
        data: FederatedData,
        strategy: Strategy,
        settings: LocalSettings,
        store: ClientStore,
        prepare: Prepare,
        augment: Augment | None = None,
    ) -> None:
        self._model = model
        self._data = data
        self.strategy = strategy
        self._settings = settings
        self._store = store
        self._prepare = prepare
        self._augment = augment
        self._clients: Mapping[str, ClientRows] = {client.name: client for client in data.clients}

    def run(self, task: Task) -> Answer | ClientFailure:
        """Do the task. A diverged client is a failure of that client, not of the run."""
        self._model.load(task.payload)
        return self._train(task) if task.kind == "train" else self._evaluate(task)

    def _evaluate(self, task: Task) -> Answer:
        """Loss and accuracy on the client's held-out images; with the setting `confusion`, also the counts behind."""
        client = self._clients[task.client]
        rows = client.test if task.kind == "evaluate" else client.val
        result = evaluate(
            self._model.module,
            self._examples(rows, None),
            len(self._data.class_names),
            precision=self._settings.precision,
        )
        count = float(result.examples)
        metrics = {"loss": Mean(result.loss * count, count), "accuracy": Mean(result.accuracy * count, count)}
        counts = {"confusion": torch.from_numpy(result.confusion)} if task.settings.get("confusion") else {}
        return Answer(task.round, task.kind, Report(task.client, count, metrics), counts)

    def _train(self, task: Task) -> Answer | ClientFailure:
        started = time.perf_counter()
        private = self._store.open(task.client, task.expects)
        ctx = self._context(task, under("strategy", private))
        optimizer = make_optimizer(self._settings.optimizer, under("optimizer", private))
        generator = torch.Generator().manual_seed(derive(self._settings.seed, "train", task.round, task.client))
        examples = self._examples(self._clients[task.client].train, self._augment)
        batches = examples.epochs(self._settings.epochs, self._settings.batch_size, generator)
        loop = LocalLoop(self._model, self._settings, self.strategy.terms(ctx))
        metrics = loop.run(batches, optimizer, ctx.lr, generator)
        if not self._model.is_finite() or not math.isfinite(metrics["loss"].total):
            return ClientFailure(task.client, task.round, "training diverged: the update or the loss is not finite")
        contribution = self.strategy.finish(ctx, self._model.delta(task.payload))
        stored = self._keep(task, contribution, optimizer.state() if self._settings.optimizer.keep else {})
        metrics |= self._measured(task, contribution, time.perf_counter() - started)
        report = Report(task.client, contribution.weight, metrics, stored)
        return Answer(task.round, "train", report, contribution.payload, contribution.extra)

    def _context(self, task: Task, private: State) -> LocalContext:
        examples = len(self._clients[task.client].train)
        return LocalContext(
            round=task.round,
            client=task.client,
            examples=examples,
            steps=self._settings.epochs * math.ceil(examples / self._settings.batch_size),
            lr=task.settings["lr"],
            start=self._model.vector.clone(),
            received={name: value for name, value in task.payload.items() if name not in self._model.names},
            private=private,
            flatten=self._model.flatten,
            unflatten=self._model.unflatten,
        )

    def _keep(self, task: Task, contribution: Contribution, optimizer: State) -> bool:
        tensors = prefixed("strategy", contribution.private) | prefixed("optimizer", optimizer)
        if tensors:
            self._store.save(task.client, task.round, tensors)
        return bool(tensors)

    def _measured(self, task: Task, contribution: Contribution, seconds: float) -> dict[str, Mean]:
        return {
            "seconds": Mean(seconds, 1),
            "update_norm": Mean(l2_norm(contribution.payload.values()), 1),
            "bytes_down": Mean(nbytes(task.payload), 1),
            "bytes_up": Mean(nbytes(contribution.payload) + nbytes(contribution.extra), 1),
        }

    def _examples(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]], augment: Augment | None) -> Examples:
        return Examples(
            self._data, rows, self._prepare, self._model.device, augment, channels_last=self._settings.channels_last
        )


def nbytes(state: State) -> float:
    """Bytes of all tensors together."""
    return float(sum(value.nbytes for value in state.values()))
