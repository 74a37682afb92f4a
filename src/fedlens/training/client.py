"""One client's work on one task, in a resident model that plays any client in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch

from fedlens.aggregation.norms import l2_norm
from fedlens.data.types import ClientRows, FederatedData, Rows
from fedlens.federation.client_store import ClientStore
from fedlens.federation.records import Evaluation
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
        kinds = {"train": self._train, "evaluate": self._evaluate, "count": self._count}
        return kinds[task.kind](task)

    def _count(self, task: Task) -> Answer:
        """Summed loss and confusion counts of each split that the task asks for and the client has."""
        client = self._clients[task.client]
        held = {"test": client.test, "val": client.val}
        found = {split: self._score(rows) for split, rows in held.items() if len(rows) and task.settings.get(split)}
        metrics = {f"{split}.loss": Mean(one.loss * one.examples, one.examples) for split, one in found.items()}
        weight = float(sum(one.examples for one in found.values()))
        counts = {split: torch.from_numpy(one.confusion) for split, one in found.items()}
        return Answer(task.round, "count", Report(task.client, weight, metrics), counts)

    def _score(self, rows: Rows) -> Evaluation:
        return evaluate(
            self._model.module,
            self._examples(rows, None),
            len(self._data.class_names),
            precision=self._settings.precision,
        )

    def _evaluate(self, task: Task) -> Answer:
        rows = self._clients[task.client].test
        result = self._score(rows)
        count = float(result.examples)
        metrics = {"loss": Mean(result.loss * count, count), "accuracy": Mean(result.accuracy * count, count)}
        return Answer(task.round, "evaluate", Report(task.client, count, metrics), {})

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

    def _examples(self, rows: Rows, augment: Augment | None) -> Examples:
        return Examples(
            self._data, rows, self._prepare, self._model.device, augment, channels_last=self._settings.channels_last
        )


def nbytes(state: State) -> float:
    """Bytes of all tensors together."""
    return float(sum(value.nbytes for value in state.values()))
