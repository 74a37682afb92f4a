"""Client training in one process: one resident model, loaded with each client's state in turn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from fedlens.aggregation.base import Aggregator
from fedlens.aggregation.norms import norm_on_device
from fedlens.core.client_store import ClientStore, StageStore
from fedlens.core.records import Evaluation
from fedlens.core.seeds import SeedFunction, derive
from fedlens.core.types import (
    ClientFailure,
    ClientResult,
    MeanMetric,
    Metrics,
    State,
    Task,
    TaskSettings,
    nbytes,
    prefixed,
    under,
)
from fedlens.data.types import ClientRows, FederatedData, Rows
from fedlens.models.base import Recognizer
from fedlens.privacy.dp_sgd import PrivateSteps
from fedlens.secure_aggregation.registered import NO_KEYS, RegisteredKeys
from fedlens.strategies.base import ClassFeatures, ClientContext, ClientUpdate, LocalTerms
from fedlens.training.algorithm import Algorithm
from fedlens.training.client_context import client_context
from fedlens.training.context import ResidentTrainingContext
from fedlens.training.cuda_graphs import CudaGraphs
from fedlens.training.device import enough_memory, in_main_memory, read, repeatable
from fedlens.training.evaluation import class_features, evaluate
from fedlens.training.examples import Augment, Examples, Prepare, resident
from fedlens.training.flat import FlatModel
from fedlens.training.graphable import can_pad, obstacle
from fedlens.training.loop import Stepped, unseen
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.sections import Graph, TransferSection
from fedlens.training.settings import LocalSettings
from fedlens.training.static_steps import StaticSteps
from fedlens.training.tasks.base import kind_of
from fedlens.training.transfer import LayerwiseLR
from fedlens.training.vectorizable import TRIED, Vectorizing, vectorizing
from fedlens.transforms.base import EncodingContext, ReceivingContext

STRATEGY, OPTIMIZER, PRIVATE, PERSONAL, TRANSFORM = "strategy", "optimizer", "private", "personal", "transform"
"""Name prefixes in the client store: the strategy's state, the optimizer's state, private parts of the model, the
personalisation's own state, and the state of update transforms."""


class ClientTrainer:
    """Runs tasks for any client. The task kinds (`training.tasks`) define what happens; the methods here are their
    tools."""

    def __init__(
        self,
        model: FlatModel,
        data: FederatedData,
        algorithm: Algorithm,
        settings: LocalSettings,
        store: ClientStore,
        prepare: Prepare,
        augment: Augment | None = None,
        transfer: TransferSection = TransferSection(),  # noqa: B008
        secret: SeedFunction = derive,
        registered: RegisteredKeys = NO_KEYS,
        vectorize: int = 1,
        graph: Graph = False,
    ) -> None:
        """`secret`: makes the seeds of draws that the server must not foretell; `registered`: by which clients
        know each other in secure aggregation; `vectorize`: how many clients may train together; `graph`: whether steps
        are replayed from a CUDA graph where they can be, `auto`: where that is faster, too."""
        self.model = model
        self.algorithm = algorithm
        self.settings = settings
        self.registered = registered
        self._layerwise_lr = LayerwiseLR(model, transfer)
        self._transfer = transfer
        self._data = data
        self._resident = resident(data, model.device)
        self._store = store
        self._prepare = prepare
        self._augment = augment
        self._secret = secret
        self.vectorize = vectorize
        self._graph = graph
        self._clients: Mapping[str, ClientRows] = {client.name: client for client in data.clients}
        personal = algorithm.personalization
        self._private = frozenset(name for name in model.names if personal.is_private(name, model.module))
        first = model.state()
        self._first = {name: value for name, value in first.items() if name in self._private}
        self._order = tuple(name for name in first if name not in self._private)
        self._forms = {name: first[name].to("meta") for name in self._order}
        self._received: tuple[State, State] | None = None
        """What the server sent to this round's clients: as it came, and decoded on the device."""

    @property
    def shared(self) -> frozenset[str]:
        """Names of the shared tensors of the model."""
        return self.model.names - self._private

    @property
    def partly_private(self) -> bool:
        """Whether some parts of the model are private to the clients."""
        return bool(self._private)

    @property
    def has_own_model(self) -> bool:
        """Whether each client predicts with a model that is not the shared one."""
        return self.algorithm.personalization.has_own_model() or self.partly_private

    @property
    def shows_shared(self) -> bool:
        """Whether each client uses its own model while the whole shared model exists too: both are then evaluated on
        the client's images."""
        return self.algorithm.personalization.has_own_model() and not self._private

    def run(self, task: Task, stepped: Stepped = unseen) -> ClientResult | ClientFailure:
        """Run the task; its result is in main memory. `stepped` is called after every gradient computation.

        Raises:
            As `run_on_device`.
        """
        try:
            with enough_memory():
                outcome = self.run_on_device(task, stepped)
                return outcome if isinstance(outcome, ClientFailure) else in_main_memory(outcome)
        finally:
            self.release()

    def run_on_device(self, task: Task, stepped: Stepped = unseen) -> ClientResult | ClientFailure:
        """Run the task; its result is where it was made, so that what is added up here need not leave the GPU.

        Raises:
            ConfigError: the task kind does not exist.
            KeyError: a part of the model is missing from the task.
            CheckpointError: the client's stored state is missing or cannot be written.
            OutOfMemory: the memory of the GPU or of the machine is full.
        """
        kind = kind_of(task.kind)
        with self.repeatable(task), enough_memory():
            outcome = kind.run(self, task, self.opened(task), stepped)
        if kind.staged:
            self.stage_of(task).close(failed=isinstance(outcome, ClientFailure))
        return outcome

    @cached_property
    def vectorizing(self) -> Vectorizing:
        """Whether clients can train together. Some of their images are tried for that."""
        return vectorizing(self.model, self.algorithm, self.settings, self._some)

    @cached_property
    def no_graph(self) -> str | None:
        """Why no step can be replayed from a CUDA graph; None: some can, as far as that is known without trying."""
        return obstacle(self.model, self.algorithm, self.settings, self._data, self._transfer)

    @cached_property
    def static_steps(self) -> StaticSteps | None:
        """The steps that may be replayed from a CUDA graph; None: there are none, or none are wanted."""
        if self._graph is False or self.no_graph is not None:
            return None
        pads = can_pad(self.model, self.settings, self._some)
        graphs = CudaGraphs(self.model.device, timed=self._graph == "auto")
        return StaticSteps(self.model, self.settings, pads=pads, graphs=graphs)

    @property
    def _some(self) -> Examples:
        """Images to try things with."""
        return self._examples(np.concatenate([client.train for client in self._data.clients])[:TRIED])

    def opened(self, task: Task) -> dict[str, Tensor]:
        """What the client has stored for the task; what an earlier try at it has left is removed.

        Raises:
            CheckpointError: it is missing.
        """
        kind = kind_of(task.kind)
        if kind.staged or kind.writes_store:
            self._store.begin_stage(task.client, task.round, task.stage)
        read = self._store.open if kind.writes_store else self._store.read
        return read(task.client, task.store_version)

    def run_as(self, kind: str, task: Task, kept: State, stepped: Stepped) -> ClientResult | ClientFailure:
        """Run the task as one of another kind, with the random draws of that kind: for kinds that do more with its
        result, which is in main memory."""
        other = replace(task, kind=kind, settings=TaskSettings(task.settings.lr, task.settings.repeat))
        with self.repeatable(other):
            outcome = kind_of(kind).run(self, other, kept, stepped)
        return outcome if isinstance(outcome, ClientFailure) else in_main_memory(outcome)

    def release(self) -> None:
        """Let go of what the server sent for the round."""
        self._received = None

    def steps(self, task: Task) -> int:
        """The maximum number of gradient computations in a task; 0 where steps are not counted."""
        return kind_of(task.kind).steps(self, task)

    def partial_sum(self, round_number: int, payload: State) -> Aggregator:
        """A new aggregator for the results of this process' clients in one round. `payload`: that of their tasks."""
        trainable = self.model.trainable & self.shared
        return self.algorithm.aggregator(ReceivingContext(round_number, trainable, told=payload))

    def decode(self, result: ClientResult) -> ClientResult:
        """The result in decoded form, as an aggregator adds it."""
        return self.algorithm.chain.decode(result, self._forms)

    def load_client_model(self, task: Task) -> None:
        """Load the model that the task's client uses for prediction.

        Raises:
            CheckpointError: the client's stored state is missing.
        """
        kept = self._store.read(task.client, task.store_version)
        with self.repeatable(task):
            self.use_own_model(self.received(task, kept))

    def load_shared(self, shared: State) -> None:
        """Load the shared parameters; reset private ones to their initial values."""
        self.model.load({**self._first, **shared})
        self.model.reset_bn_counters()

    # -- tools of the task kinds --------------------------------------------------------------------------------------

    def images_of(self, client: str) -> int:
        """The number of the client's training images."""
        return len(self._clients[client].train)

    def part_weights(self, client: str, weight: float) -> dict[str, float]:
        """The weights of the parts of the model that learn from one modality: the share of `weight`, the client's, that
        its training rows with this modality have among all of them."""
        rows, data = torch.from_numpy(self._clients[client].train), self._data
        has = {"image": data.has_image, "text": data.has_text}
        parts = {part: has[self.algorithm.parts[part]] for part in self.algorithm.parts_among(self._order)}
        return {
            part: weight * (1.0 if known is None else float(known[rows].float().mean()))
            for part, known in parts.items()
        }

    def held_out(self, client: str, split: Literal["train", "val", "test"]) -> Examples:
        """The client's images of a split, without augmentation."""
        own = self._clients[client]
        return self._examples({"train": own.train, "val": own.val, "test": own.test}[split])

    def received(self, task: Task, kept: State, stepped: Stepped = unseen) -> ResidentTrainingContext:
        """Like `local_context`, for a task that stores no state."""
        return self.local_context(task, kept, VectorOptimizer(self.settings.optimizer, {}), stepped)

    def local_context(
        self,
        task: Task,
        kept: State,
        optimizer: VectorOptimizer,
        stepped: Stepped = unseen,
        private: PrivateSteps | None = None,
    ) -> ResidentTrainingContext:
        """The context for the personalisation: the received model, with the client's private parts loaded and the
        learning rates of the task's round set."""
        self.model.module.eval()  # so that `FlatModel.train` sets the mode of every module anew for each client
        self._layerwise_lr.set(task.round)
        self.model.load({**self._first, **under(PRIVATE, kept)})
        self.model.load(self._sent(task))
        self.model.reset_bn_counters()
        return ResidentTrainingContext(
            self.model,
            self.settings,
            self._training(task.client),
            optimizer,
            torch.Generator().manual_seed(derive(self.settings.seed, *place(task))),
            round_number=task.round,
            client=task.client,
            lr=task.settings.lr,
            kept=under(PERSONAL, kept),
            stepped=stepped,
            private=private,
            plain_step=self.static_steps,
        )

    def private_steps(self, task: Task) -> PrivateSteps | None:
        """The steps of a training task that hide single images; None: those of every training.

        Raises:
            PrivacyBudgetExceeded: the client's budget does not allow them.
            CheckpointError: they cannot be written into its ledger.
        """
        dp_sgd, folder = self.algorithm.dp_sgd, self._store.folder(task.client)
        return dp_sgd.begin(folder, task.client, task.round, self.images_of(task.client)) if dp_sgd else None

    def use_own_model(self, local: ResidentTrainingContext) -> None:
        """Turn the resident model into the one that the client uses for prediction."""
        self.algorithm.personalization.predict(local)

    def score(self, examples: Examples) -> Evaluation:
        """Evaluate the resident model in its current state on `examples`."""
        return evaluate(
            self.model.module,
            examples,
            len(self._data.class_names),
            precision=self.settings.memory.precision,
            batch_size=self.settings.memory.micro_batch,
        )

    def client_context(self, task: Task, kept: State, start: Tensor) -> ClientContext:
        """The context for the strategy. `start`: the received trainable parameters, (P,)."""
        examples = self.images_of(task.client)
        return client_context(
            self.model,
            self._decoded(task),
            self.settings,
            examples=examples,
            steps=self.settings.epochs * math.ceil(examples / self.settings.batch_size),
            private=self._private,
            start=start,
            loss=self._received_loss(task.client),
            client_state=under(STRATEGY, kept),
            class_features=lambda: self._class_features(task.client),
        )

    def shared_terms(self, terms: LocalTerms) -> LocalTerms:
        """The strategy's terms, with corrections masked out for private parameters: the server has no values for
        those."""
        correction = terms.correction
        if correction is None or not self._private:
            return terms
        shared = self.model.mask(self.shared)
        return replace(terms, correction=lambda parameters: correction(parameters) * shared)

    def delta(self, task: Task) -> dict[str, Tensor]:
        """after − before, for the shared tensors."""
        return self.model.delta(self._sent(task))

    def encoding_context(self, task: Task) -> EncodingContext:
        """The context for update transforms; the chain adds the state that each of them stored."""
        seed = derive(self.settings.seed, "encode", *place(task))
        trainable = self.model.trainable & self.shared
        folder = self._store.folder(task.client)
        secret = self.secret_seed(task)
        return EncodingContext(task.round, task.client, trainable, {}, seed, secret, folder, told=task.payload)

    def secret_seed(self, task: Task) -> int:
        """The seed of the task's draws that the server must not foretell."""
        return self._secret(self.settings.seed, "secret", *place(task))

    def repeatable(self, task: Task) -> AbstractContextManager[None]:
        """Seed the random draws inside modules (dropout) from the task, so that they depend neither on the process nor
        on earlier tasks."""
        return repeatable(derive(self.settings.seed, "modules", *place(task)), self.model.device)

    def stage_of(self, task: Task) -> StageStore:
        """The client's state that lasts from one stage of the round to the next."""
        return self._store.stage(task.client, task.round, task.stage)

    def kept_optimizer(self, kept: State) -> dict[str, Tensor]:
        """The optimizer's state from the client's last training, on this device."""
        return self.model.beside(under(OPTIMIZER, kept))

    def kept_by_transforms(self, kept: State) -> dict[str, Tensor]:
        """The stored state of update transforms, by name."""
        return under(TRANSFORM, kept)

    def kept_before(self, task: Task) -> dict[str, Tensor]:
        """What the client stored before the task, as it is on disk: training may change loaded tensors in place.

        Raises:
            CheckpointError: it is missing.
        """
        return self._store.read(task.client, task.store_version)

    def keep(
        self, task: Task, update: ClientUpdate, optimizer: VectorOptimizer, personal: State, transforms: State
    ) -> bool:
        """Store the client's state under the task's version; False if there is no state to store. Where a divergence is
        hidden, a state without tensors is stored, too: the server learns whether there is one.

        Raises:
            CheckpointError: the state cannot be written.
        """
        live = self.model.state() if self._private else {}
        private = {name: value for name, value in live.items() if name in self._private}
        tensors = (
            prefixed(STRATEGY, update.client_state)
            | prefixed(OPTIMIZER, optimizer.state() if self.settings.training.keep else {})
            | prefixed(PRIVATE, private)
            | prefixed(PERSONAL, personal)
            | prefixed(TRANSFORM, transforms)
        )
        stored = bool(tensors) or self.algorithm.chain.hides_divergence
        if stored:
            self._store.save(task.client, task.version, tensors)
        return stored

    def measured(self, task: Task, delta: State, update: ClientUpdate, sent: ClientUpdate, seconds: float) -> Metrics:
        """The metrics of a training task. `drift` is the distance between the client's model after and before training;
        `update_norm` is measured before encoding. Both leave out running statistics. Byte counts are of what is
        transmitted."""
        drift, norm = read(*(self._norm(state).to(self.model.device) for state in (delta, update.payload)))
        return {
            "seconds": MeanMetric(seconds, 1),
            "drift": MeanMetric(drift, 1),
            "update_norm": MeanMetric(norm, 1),
            "bytes_down": MeanMetric(nbytes(task.payload), 1),
            "bytes_up": MeanMetric(nbytes(sent.payload) + nbytes(sent.extra), 1),
        }

    # ------------------------------------------------------------------------------------------------------------------

    def _decoded(self, task: Task) -> Task:
        """The task with what the server sent, decoded and on the device: once for all clients of a round."""
        if self._received is None or self._received[0] is not task.payload:
            decoded = self.algorithm.chain.decode_model(task.payload)
            self._received = task.payload, self.model.on_device(decoded)
        return replace(task, payload=self._received[1])

    def _sent(self, task: Task) -> State:
        """The shared model in the task, in a fixed order: the order of a set would change sums in their last bits."""
        payload = self._decoded(task).payload
        return {name: payload[name] for name in self._order}

    def _training(self, client: str) -> Examples:
        """The client's training images; a malicious client's may be poisoned."""
        rows, plan = self._clients[client].train, self.algorithm.attack_plan
        poison = plan.poison(client, rows) if plan else None
        examples = self._examples(rows, self._augment)
        return examples if poison is None else replace(examples, data=self._data, poison=poison)

    def _received_loss(self, client: str) -> float:
        if not self.algorithm.strategy.needs_loss:
            return math.nan
        return self.score(replace(self._training(client), augment=None)).loss

    def _class_features(self, client: str) -> ClassFeatures:
        memory = self.settings.memory
        return class_features(
            cast(Recognizer, self.model.module),
            replace(self._training(client), augment=None),
            precision=memory.precision,
            batch_size=memory.micro_batch,
        )

    def _norm(self, state: State) -> Tensor:
        return norm_on_device(state[name] for name in sorted(state.keys() & self.model.trainable))

    def _examples(self, rows: Rows, augment: Augment | None = None) -> Examples:
        return Examples(
            self._resident,
            rows,
            self._prepare,
            self.model.device,
            augment,
            channels_last=self.settings.memory.channels_last,
        )


def place(task: Task) -> tuple[str | int, ...]:
    """The task's place in the seed derivation: distinguishes its random draws from those of all other tasks."""
    repeat = task.settings.repeat
    return (task.kind, task.round, task.client, *([repeat] if repeat else []))
