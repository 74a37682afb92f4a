"""One client's work on one task, in a resident model that plays any client in turn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedlens.aggregation.base import Aggregator
from fedlens.aggregation.directions import Directions
from fedlens.aggregation.norms import all_finite, l2_norm
from fedlens.aggregation.share import LimitedShare
from fedlens.data.types import ClientRows, FederatedData, Rows
from fedlens.federation.client_store import ClientStore
from fedlens.federation.records import Evaluation
from fedlens.federation.types import Answer, ClientFailure, Mean, Metrics, Report, State, Task
from fedlens.seeds import derive
from fedlens.strategies.base import Contribution, LocalContext, LocalTerms, prefixed, under
from fedlens.training.algorithm import Algorithm
from fedlens.training.bench import Bench
from fedlens.training.device import enough_memory, gathered, repeatable
from fedlens.training.evaluation import evaluate
from fedlens.training.examples import Augment, Examples, Prepare
from fedlens.training.flat import FlatModel
from fedlens.training.loop import STEPS, Stepped, unseen
from fedlens.training.optimizers import VectorOptimizer, make_optimizer
from fedlens.training.settings import LocalSettings
from fedlens.training.transfer import Pace, Transfer

STRATEGY, OPTIMIZER, PRIVATE, PERSONAL = "strategy", "optimizer", "private", "personal"
"""Prefixes of what a client keeps: of the strategy, the optimizer's state, parts of the model that never travel, and
what the personalisation keeps beside them."""


class ClientTrainer:
    """Runs tasks of any client: restores the model in place, trains or evaluates, gives the answer."""

    def __init__(
        self,
        model: FlatModel,
        data: FederatedData,
        algorithm: Algorithm,
        settings: LocalSettings,
        store: ClientStore,
        prepare: Prepare,
        augment: Augment | None = None,
        transfer: Transfer = Transfer(),  # noqa: B008
        directions: bool = False,
    ) -> None:
        """`directions`: aggregators also measure how far the updates agree, for one more sum of the model's size."""
        self._model = model
        self._pace = Pace(model, transfer)
        self._directions = directions
        self._data = data
        self._algorithm = algorithm
        self._settings = settings
        self._store = store
        self._prepare = prepare
        self._augment = augment
        self._clients: Mapping[str, ClientRows] = {client.name: client for client in data.clients}
        personal = algorithm.personalization
        self._private = frozenset(name for name in model.names if personal.is_private(name, model.module))
        first = model.state()
        self._first = {name: value for name, value in first.items() if name in self._private}
        self._order = tuple(name for name in first if name not in self._private)

    @property
    def shared(self) -> frozenset[str]:
        """Names of the model that travel."""
        return self._model.names - self._private

    def make_aggregator(self) -> Aggregator:
        """A fresh stream for one round's answers."""
        trained, threat = self._model.trainable & self.shared, self._algorithm.threat
        aggregator = self._algorithm.rule.aggregator(trained)
        if self._directions:
            aggregator = Directions(aggregator, trained)
        if self._algorithm.largest_share is not None:
            aggregator = LimitedShare(aggregator, self._algorithm.largest_share)
        return threat.around(aggregator, trained) if threat else aggregator

    @property
    def shows_shared(self) -> bool:
        """Clients use models of their own beside a whole shared one: both are measured on the client's images."""
        return self._algorithm.personalization.has_own_model() and not self._private

    def take_home(self, task: Task) -> None:
        """Make the resident model the one that the task's client uses.

        Raises:
            CheckpointError: what this client kept is not there.
        """
        kept = self._store.read(task.client, task.expects)
        with self._repeatable(task):
            self._at_home(self._received(task, kept))

    def leave(self, shared: State) -> None:
        """Make the resident model nobody's: the shared parts, and private ones as they were at first."""
        self._model.load({**self._first, **shared})
        self._model.count_anew()

    def steps(self, task: Task) -> int:
        """The most gradients that a training task takes; 0 for other tasks, whose steps nobody counts."""
        if task.kind != "train":
            return 0
        passes = self._algorithm.personalization.passes(self._settings.epochs)
        return passes * math.ceil(len(self._clients[task.client].train) / self._settings.batch_size)

    def run(self, task: Task, stepped: Stepped = unseen) -> Answer | ClientFailure:
        """Do the task; `stepped` is called at every gradient of its training. A diverged client is a failure of that
        client, not of the run.

        Raises:
            KeyError: the task lacks a part of the model.
            CheckpointError: what this client kept is not there, or cannot be written.
            RuntimeFailure: the GPU's memory is full.
        """
        kinds: Mapping[str, Callable[[Task, State], Answer | ClientFailure]] = {
            "train": partial(self._train, stepped=stepped),
            "evaluate": self._evaluate,
            "count": self._count,
        }
        kept = self._store.open if task.kind == "train" else self._store.read
        with self._repeatable(task), enough_memory():
            return kinds[task.kind](task, kept(task.client, task.expects))

    def _repeatable(self, task: Task) -> AbstractContextManager[None]:
        """What modules draw by themselves (dropout) is the task's, whichever process it runs in and after whatever."""
        return repeatable(derive(self._settings.seed, "modules", *place(task)), self._model.device)

    def _count(self, task: Task, kept: State) -> Answer:
        """Summed loss and confusion counts of each split that the task asks for and the client has: of the shared
        model, or, where parts of it are private, of the model that the client uses."""
        bench = self._received(task, kept)
        if self._private:
            self._at_home(bench)
        client = self._clients[task.client]
        held = {"test": client.test, "val": client.val}
        found = {
            split: self._score(self._examples(rows))
            for split, rows in held.items()
            if len(rows) and task.settings.get(split)
        }
        metrics = {f"{split}.loss": Mean(one.loss * one.examples, one.examples) for split, one in found.items()}
        weight = float(sum(one.examples for one in found.values()))
        counts = {split: torch.from_numpy(one.confusion) for split, one in found.items()}
        return Answer(task.round, "count", Report(task.client, weight, metrics), counts)

    def _score(self, examples: Examples) -> Evaluation:
        return evaluate(
            self._model.module,
            examples,
            len(self._data.class_names),
            precision=self._settings.precision,
            batch_size=self._settings.micro_batch,
        )

    def _evaluate(self, task: Task, kept: State) -> Answer:
        examples = self._examples(self._clients[task.client].test)
        bench = self._received(task, kept)
        metrics = accuracy_of(self._score(examples), "shared.") if self.shows_shared else {}
        self._at_home(bench)
        metrics |= accuracy_of(self._score(examples))
        return Answer(task.round, "evaluate", Report(task.client, float(len(examples)), metrics), {})

    def _received(self, task: Task, kept: State) -> Bench:
        """As `_bench`, for a task that keeps nothing."""
        return self._bench(task, kept, make_optimizer(self._settings.optimizer, {}))

    def _at_home(self, bench: Bench) -> None:
        """Make the model the one that the bench's client uses."""
        self._algorithm.personalization.predict(bench)

    def _train(self, task: Task, kept: State, stepped: Stepped) -> Answer | ClientFailure:
        started = time.perf_counter()
        optimizer = make_optimizer(self._settings.optimizer, self._model.beside(under(OPTIMIZER, kept)))
        bench = self._bench(task, kept, optimizer, stepped)
        personal, strategy = self._algorithm.personalization, self._algorithm.strategy
        ctx = self._context(task, under(STRATEGY, kept), bench.start)
        personal.arrive(bench)
        metrics = dict(personal.train(bench, self._terms(strategy.terms(ctx))))
        if not self._model.is_finite() or not math.isfinite(metrics["loss"].total):
            return ClientFailure(task.client, task.round, "training diverged: the update or the loss is not finite")
        if not all_finite(bench.kept.values()):
            return ClientFailure(task.client, task.round, "training diverged: the client's own model is not finite")
        taken = metrics.pop(STEPS, Mean(ctx.steps, 1)).total
        if not taken:
            return ClientFailure(task.client, task.round, "no step was taken: every gradient overflowed fp16")
        delta = self._model.delta(self._sent(task))
        contribution = strategy.finish(replace(ctx, steps=int(taken)), delta)
        if not all_finite([*contribution.payload.values(), *contribution.extra.values()]):
            return ClientFailure(task.client, task.round, "training diverged: what it would send is not finite")
        contribution = in_main_memory(contribution)
        stored = self._keep(task, contribution, optimizer, bench.kept)
        metrics |= self._measured(task, delta, contribution, time.perf_counter() - started)
        report = Report(task.client, contribution.weight, metrics, stored)
        return Answer(task.round, "train", report, contribution.payload, contribution.extra)

    def _sent(self, task: Task) -> State:
        """The shared model in the task, always in the same order: a set's own would change sums in their last bits."""
        return {name: task.payload[name] for name in self._order}

    def _bench(self, task: Task, kept: State, optimizer: VectorOptimizer, stepped: Stepped = unseen) -> Bench:
        """The client's bench, with the model as it was received and the client's private parts in place, at the pace of
        the task's round."""
        self._pace.set(task.round)
        self._model.load({**self._first, **under(PRIVATE, kept)})
        self._model.load(self._sent(task))
        self._model.count_anew()
        return Bench(
            self._model,
            self._settings,
            self._training(task.client),
            optimizer,
            torch.Generator().manual_seed(derive(self._settings.seed, *place(task))),
            round_number=task.round,
            client=task.client,
            lr=task.settings.get("lr", 0.0),
            kept=under(PERSONAL, kept),
            stepped=stepped,
        )

    def _training(self, client: str) -> Examples:
        """What the client trains on: a malicious one on poisoned images."""
        rows, threat = self._clients[client].train, self._algorithm.threat
        return replace(self._examples(rows, self._augment), poison=threat.poison(client, rows) if threat else None)

    def _terms(self, terms: LocalTerms) -> LocalTerms:
        """The strategy's terms. They are about what is shared: a private part is nobody's to pull at."""
        correction = terms.correction
        if correction is None or not self._private:
            return terms
        shared = self._model.mask(self.shared)
        return replace(terms, correction=lambda parameters: correction(parameters) * shared)

    def _context(self, task: Task, private: State, start: Tensor) -> LocalContext:
        examples, optimizer = len(self._clients[task.client].train), self._settings.optimizer
        return LocalContext(
            round=task.round,
            client=task.client,
            examples=examples,
            steps=self._settings.epochs * math.ceil(examples / self._settings.batch_size),
            lr=task.settings["lr"],
            momentum=optimizer.momentum if optimizer.name == "sgd" else None,
            start=start,
            module=self._model.module,
            loss=self._received_loss(task.client),
            received={name: value for name, value in task.payload.items() if name not in self._model.names},
            private=private,
            flatten=self._model.flatten,
            unflatten=self._unflatten,
        )

    def _received_loss(self, client: str) -> float:
        if not self._algorithm.strategy.needs_loss:
            return math.nan
        return self._score(replace(self._training(client), augment=None)).loss

    def _unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        return {name: value for name, value in self._model.unflatten(vector).items() if name not in self._private}

    def _keep(self, task: Task, contribution: Contribution, optimizer: VectorOptimizer, personal: State) -> bool:
        live = self._model.state() if self._private else {}
        private = {name: value for name, value in live.items() if name in self._private}
        tensors = (
            prefixed(STRATEGY, contribution.private)
            | prefixed(OPTIMIZER, optimizer.state() if self._settings.optimizer.keep else {})
            | prefixed(PRIVATE, private)
            | prefixed(PERSONAL, personal)
        )
        if tensors:
            self._store.save(task.client, task.version, tensors)
        return bool(tensors)

    def _measured(self, task: Task, delta: State, contribution: Contribution, seconds: float) -> Metrics:
        """`drift` is how far training has led the client; `update_norm` is of what it sends. Running statistics have no
        part in either."""
        return {
            "seconds": Mean(seconds, 1),
            "drift": Mean(self._norm(delta), 1),
            "update_norm": Mean(self._norm(contribution.payload), 1),
            "bytes_down": Mean(nbytes(task.payload), 1),
            "bytes_up": Mean(nbytes(contribution.payload) + nbytes(contribution.extra), 1),
        }

    def _norm(self, state: State) -> float:
        return l2_norm(state[name] for name in sorted(state.keys() & self._model.trainable))

    def _examples(self, rows: Rows, augment: Augment | None = None) -> Examples:
        return Examples(
            self._data, rows, self._prepare, self._model.device, augment, channels_last=self._settings.channels_last
        )


def accuracy_of(result: Evaluation, prefix: str = "") -> dict[str, Mean]:
    """Loss and accuracy as metrics that add."""
    count = float(result.examples)
    return {
        f"{prefix}loss": Mean(result.loss * count, count),
        f"{prefix}accuracy": Mean(result.accuracy * count, count),
    }


def in_main_memory(contribution: Contribution) -> Contribution:
    """The same where the server's half of an algorithm is, whatever the device."""
    payload, extra = (
        {name: value.cpu() for name, value in gathered(part, torch.device("cpu")).items()}
        for part in (contribution.payload, contribution.extra)
    )
    return replace(contribution, payload=payload, extra=extra)


def place(task: Task) -> tuple[str | int, ...]:
    """What tells the task's draws from those of all others."""
    again = int(task.settings.get("again", 0))
    return (task.kind, task.round, task.client, *([again] if again else []))


def nbytes(state: State) -> float:
    """Bytes of all tensors together."""
    return float(sum(value.nbytes for value in state.values()))
