"""Local training: the client's part of a round."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import torch

from fedlens.aggregation.norms import all_finite, l2_norm
from fedlens.core.types import (
    ClientFailure,
    ClientInfo,
    ClientReport,
    ClientResult,
    MeanMetric,
    Metrics,
    State,
    Task,
    part_of,
)
from fedlens.errors import ConfigError, PrivacyBudgetExceeded
from fedlens.models.base import Recognizer
from fedlens.strategies.base import ClientContext, ClientUpdate, LocalTerms, Strategy
from fedlens.training.client_context import client_context
from fedlens.training.context import ResidentTrainingContext
from fedlens.training.device import in_main_memory
from fedlens.training.evaluation import no_features
from fedlens.training.loop import STEPS, Stepped
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.screening import Expected, Shapes, check_update, shapes_of
from fedlens.training.tasks.base import ServerView, TaskKind, task_kinds
from fedlens.transforms.base import EncodingContext

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer

METRICS = ("loss", "seconds", "update_norm", "bytes_down", "bytes_up")
"""Metrics of every training result; a personalisation adds its own."""

DATA_SHARE = "data_share"
"""Metric name for the share of the training in which it waits for images; told on the CPU."""

MODEL_DIVERGED = "training diverged: the update or the loss is not finite"
OWN_MODEL_DIVERGED = "training diverged: the client's own model is not finite"
UPDATE_DIVERGED = "training diverged: what it would send is not finite"
NO_STEP = "no step was taken: every gradient overflowed fp16"


@dataclass(frozen=True)
class Begun:
    """A client's training before its first step. seconds: that this has taken."""

    task: Task
    kept: State
    ctx: ClientContext
    local: ResidentTrainingContext
    terms: LocalTerms
    seconds: float


@dataclass(frozen=True)
class Fitted:
    """The metrics of a client's steps, and the seconds that they have taken."""

    metrics: Metrics
    seconds: float


@dataclass(frozen=True)
class Trained:
    """What local training has made.

    delta      after − before, of the shared tensors
    update     what the strategy makes of it
    optimizer  with its state after the last step
    personal   what the personalization keeps
    metrics    of the training
    """

    delta: State
    update: ClientUpdate
    optimizer: VectorOptimizer
    personal: State
    metrics: Metrics


@task_kinds.register("train", summary="local training; the result is the client's update")
@dataclass(frozen=True)
class Train(TaskKind):
    """If a client's training diverges, only that client fails, not the run. Where a transform hides that, the client
    sends what it would send if training had not changed the model."""

    flower_type = "train"
    writes_store = True
    takes_time = True
    aggregated = True

    def steps(self, trainer: ClientTrainer, task: Task) -> int:
        settings = trainer.settings
        passes = trainer.algorithm.personalization.passes(settings.epochs)
        return passes * math.ceil(trainer.images_of(task.client) / settings.batch_size)

    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> ClientResult | ClientFailure:
        try:
            begun = self.begin(trainer, task, kept, stepped)
            began = time.perf_counter()
            metrics = trainer.algorithm.personalization.train(begun.local, begun.terms)
            return self.finish(trainer, begun, Fitted(metrics, time.perf_counter() - began))
        except PrivacyBudgetExceeded as error:
            return ClientFailure(task.client, task.round, str(error))

    def begin(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> Begun:
        """All that comes before the first step; the resident model is then the client's.

        Raises:
            PrivacyBudgetExceeded: the client would spend more privacy than it may.
        """
        started = time.perf_counter()
        algorithm, settings = trainer.algorithm, trainer.settings
        optimizer = VectorOptimizer(settings.optimizer, trainer.kept_optimizer(kept))
        local = trainer.local_context(task, kept, optimizer, stepped, trainer.private_steps(task))
        ctx = trainer.client_context(task, kept, local.start)
        algorithm.personalization.initialize(local)
        terms = trainer.shared_terms(algorithm.strategy.terms(ctx))
        return Begun(task, kept, ctx, local, terms, time.perf_counter() - started)

    def finish(self, trainer: ClientTrainer, begun: Begun, fitted: Fitted) -> ClientResult | ClientFailure:
        """All that comes after the last step; the resident model is as that has left it.

        Raises:
            PrivacyBudgetExceeded: the client would spend more privacy than it may.
        """
        started = time.perf_counter()
        algorithm, task, kept = trainer.algorithm, begun.task, begun.kept
        trained = self._trained(trainer, begun, fitted)
        if isinstance(trained, str):
            if not algorithm.chain.hides_divergence:
                return ClientFailure(task.client, task.round, trained)
            kept = trainer.kept_before(task)
            trained = self._untrained(trainer, task, kept)
        weight = algorithm.rule.weight(trained.update.weight, trainer.images_of(task.client))
        parts = {**trained.update.part_weights, **trainer.part_weights(task.client, weight)}
        update = replace(trained.update, weight=weight, part_weights=parts)
        if not algorithm.chain.any_device:
            update = in_main_memory(update)
        encoded = algorithm.chain.encode(update, trainer.kept_by_transforms(kept), trainer.encoding_context(task))
        stored = trainer.keep(task, update, trained.optimizer, trained.personal, encoded.kept)
        sent = encoded.update
        seconds = begun.seconds + fitted.seconds + time.perf_counter() - started
        measured = trainer.measured(task, trained.delta, update, sent, seconds)
        metrics = {**trained.metrics, **measured}
        report = ClientReport(task.client, sent.weight, algorithm.chain.released(metrics), stored, sent.part_weights)
        return ClientResult(task.round, task.kind, report, sent.payload, sent.extra)

    def _trained(self, trainer: ClientTrainer, begun: Begun, fitted: Fitted) -> Trained | str:
        """What training has made; the reason if it diverged."""
        ctx, local, strategy, metrics = begun.ctx, begun.local, trainer.algorithm.strategy, dict(fitted.metrics)
        if not trainer.model.is_finite() or not math.isfinite(metrics["loss"].total):
            return MODEL_DIVERGED
        if not all_finite(local.kept.values()):
            return OWN_MODEL_DIVERGED
        taken = metrics.pop(STEPS, MeanMetric(ctx.steps, 1)).total
        if not taken:
            return NO_STEP
        if trainer.model.device.type == "cpu":  # a GPU works beside this thread: waiting for images says nothing there
            metrics[DATA_SHARE] = MeanMetric(local.waited, fitted.seconds)
        delta = trainer.delta(begun.task)
        update = strategy.finish(replace(ctx, steps=int(taken)), delta)
        check_parts(update, strategy)
        if not all_finite([*update.payload.values(), *update.extra.values()]):
            return UPDATE_DIVERGED
        return Trained(delta, update, local.optimizer, local.kept, metrics)

    def _untrained(self, trainer: ClientTrainer, task: Task, kept: State) -> Trained:
        """As if training had not changed the model, nor what the client keeps."""
        optimizer = VectorOptimizer(trainer.settings.optimizer, trainer.kept_optimizer(kept))
        local = trainer.local_context(task, kept, optimizer)
        delta = {name: torch.zeros_like(value) for name, value in trainer.delta(task).items()}
        ctx = replace(trainer.client_context(task, kept, local.start), steps=1)
        update = trainer.algorithm.strategy.finish(ctx, delta)
        return Trained(delta, update, optimizer, local.kept, {})

    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        """Shapes and dtypes are derived by applying the strategy and the transforms to a zero update."""
        algorithm, settings = view.algorithm, view.settings
        examples = client.examples if client else 0
        passes = algorithm.personalization.passes(settings.epochs)

        def received() -> tuple[float, State]:
            """The norm of the model that the clients start from, and what a strategy sends with it."""
            payload = algorithm.chain.decode_model(task.payload)
            names = view.resident.names
            norm = l2_norm(value for name, value in payload.items() if name in names)
            return norm, {name: value for name, value in payload.items() if name not in names}

        norm, extras = view.once_for_payload(task, received)
        context = client_context(
            view.resident,
            replace(task, payload=extras),
            settings,
            examples=max(examples, 1),
            steps=passes * math.ceil(max(examples, 1) / settings.batch_size),
            private=view.resident.names - view.shared.keys(),
            start=view.resident.vector,  # any values: only the shape is used
            loss=1.0,
            client_state={},
            class_features=lambda: no_features(cast(Recognizer, view.resident.module)),
        )

        def form() -> tuple[Shapes, Shapes, frozenset[str]]:
            zeros = {name: torch.zeros_like(value) for name, value in view.shared.items()}
            honest = algorithm.strategy.finish(replace(context, steps=1), zeros)
            trainable = frozenset(view.resident.trainable & zeros.keys())
            sent = algorithm.chain.encode(
                honest, {}, EncodingContext(task.round, task.client, trainable, {}, 0, 0)
            ).update
            parts = sent.part_weights.keys() | algorithm.parts_among(view.shared)
            return shapes_of(sent.payload), shapes_of(sent.extra), frozenset(parts)

        update, extra, parts = view.once(task.kind, form)
        return Expected(
            examples,
            tuple(algorithm.chain.released(dict.fromkeys(METRICS, MeanMetric(0, 1)))),
            update,
            extra,
            norm,
            partial(algorithm.strategy.largest_extras, context),
            passes,
            check_payload=check_update,
            decode=lambda result: algorithm.chain.decode(result, view.forms),
            parts=parts,
            unlabelled=client is not None and 0 < client.unlabelled == examples,
        )

    def record(self, result: ClientResult) -> str:
        metrics = result.report.metrics
        loss = f", loss {metrics['loss'].value:.4f}" if "loss" in metrics and metrics["loss"].weight else ""
        told = f" on {int(result.report.weight)} images{loss}" if "loss" in metrics else ""
        return f"round {result.round}: trained{told}, {metrics['seconds'].total:.1f} s"


def check_parts(update: ClientUpdate, strategy: Strategy) -> None:
    """Check the weights that a strategy gives to parts of the model.

    Raises:
        ConfigError: it does not declare that it gives them, or a part is not one of the model.
    """
    name = type(strategy).__name__
    if update.part_weights and not strategy.weighs_parts:
        raise ConfigError(
            f"strategy {name}: `finish` gives part_weights; declare weighs_parts = True in the class",
            code="contradiction",
            key="strategy.name",
        )
    known = {part_of(tensor, update.part_weights) for tensor in update.payload}
    if unknown := sorted(update.part_weights.keys() - known):
        raise ConfigError(
            f"strategy {name}: part_weights has {unknown[0]!r}, where the update has no tensor",
            code="unknown_name",
            key="strategy.name",
        )
