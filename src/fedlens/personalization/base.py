"""The personalisation interface: which tensors stay with a client, and in which order the parts of the model are
trained.

The default hooks give one model for all clients, so a file holds only what its paper adds. A personalisation combines
with any strategy: the strategy's terms apply in the phase that trains the shared tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor, nn

from fedlens.core.registry import Registry
from fedlens.core.types import Metrics, State
from fedlens.strategies.base import LocalTerms

Batch = tuple[Tensor, Tensor]
"""Model inputs (B, …) and labels (B,)."""

NO_TERMS = LocalTerms()

Optimizer = Literal["kept", "fresh", "plain"]
"""kept: the client's own optimizer, whose state can be stored between rounds; fresh: a new one with the same settings;
plain: SGD without momentum or weight decay."""


class Gradients(Protocol):
    """Computes gradients at the model's current parameters."""

    def __call__(self, batch: Batch) -> Tensor:
        """(P,) gradient of the batch's mean loss, clipped as configured; valid until the next call."""
        ...

    def metrics(self) -> Metrics:
        """Loss and accuracy over the images seen."""
        ...


class LocalTrainingContext(ABC):
    """One client's training during one task: the interface that personalisations use.

    round, client   of the task
    examples        number of the client's training images
    epochs, lr      local epochs and learning rate of the round
    module          the model; its trainable parameters are views of `vector`
    vector          (P,) live: writing to it changes the model
    start           (P,) the received parameters, with private parts as the client stored them
    step_scale      (P,) the round's factor for each parameter's step, 0 for frozen ones; None: 1 everywhere. `fit` and
                    `stepper` apply it
    kept            the client's stored state of this personalisation: read it, replace it
    """

    round: int
    client: str
    examples: int
    epochs: int
    lr: float
    module: nn.Module
    vector: Tensor
    start: Tensor
    step_scale: Tensor | None
    kept: State

    @abstractmethod
    def fit(
        self,
        over: int | Iterable[Batch],
        terms: LocalTerms = NO_TERMS,
        *,
        step_scale: Tensor | None = None,
        lr: float | None = None,
        optimizer: Optimizer = "kept",
    ) -> Metrics:
        """Train from the model's current state; returns loss and accuracy over the images seen.

        over        number of epochs over this client's images, or batches: a generator's own code runs between two
                    steps
        step_scale  (P,) factor of each parameter's step, 0 leaves it unchanged; None: 1 everywhere
        """

    @abstractmethod
    def batches(self, epochs: int) -> Iterator[Batch]:
        """Batches of this client's images; each call draws them in another order."""

    @abstractmethod
    def gradients(self, terms: LocalTerms = NO_TERMS, *, step_scale: Tensor | None = None) -> Gradients:
        """For a custom loop. Only the loss term of `terms` is applied; no gradient is computed where `step_scale`
        is 0."""

    @abstractmethod
    def observe(self, batch: Batch) -> None:
        """A forward pass in training mode, only to update the running statistics."""

    @abstractmethod
    def stepper(self) -> Callable[[Tensor, Tensor], None]:
        """A fresh configured optimizer at the round's learning rate: (vector, gradient) → updates the vector."""

    @abstractmethod
    def statistics(self) -> dict[str, Tensor]:
        """A copy of the running statistics, which a forward pass in training mode changes."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """A copy of the whole model: trainable parameters and running statistics, including private ones."""

    @abstractmethod
    def load(self, state: State) -> None:
        """Copy `state` into the model; tensors that it does not name are unchanged."""

    @abstractmethod
    def mask(self, names: frozenset[str]) -> Tensor:
        """(P,) 1 for the named parameters, else 0."""

    @abstractmethod
    def flatten(self, state: State) -> Tensor:
        """Named trainable tensors → (P,); 0 where a name is missing."""

    @abstractmethod
    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """(P,) → all named trainable tensors, as views."""


@dataclass(frozen=True)
class Personalization:
    """One method. The fields of the dataclass are its configuration keys under `personalization`.

    steps_only  an update consists only of the shared loop's steps from the received model: strategies that rely on this
                (`Strategy.needs_sgd`) can be combined with it
    shares      some tensors are shared; if none are, strategy, rule and attack have no effect
    """

    steps_only: ClassVar[bool] = True
    shares: ClassVar[bool] = True

    def is_private(self, name: str, module: nn.Module) -> bool:
        """Whether the tensor called `name` of the model `module` is private: stored by its client between rounds, never
        sent."""
        return False

    def initialize(self, local: LocalTrainingContext) -> None:
        """Called before training: may change the model that training starts from."""

    def train(self, local: LocalTrainingContext, terms: LocalTerms) -> Metrics:
        """The round's training. The resulting model is sent, without its private parts."""
        return local.fit(local.epochs, terms)

    def predict(self, local: LocalTrainingContext) -> None:
        """Turn the model into the one that the client predicts with. Nothing is stored."""

    def passes(self, epochs: int) -> int:
        """The maximum number of passes over a client's images for training in a round of `epochs` local epochs and for
        one prediction. A site may limit it."""
        return epochs

    def incompatibility(self, model: nn.Module, /) -> str | None:
        """Why the method cannot work with this model: a line that starts with its key at fault ("head = 'fc.': …");
        None if it can."""
        return None

    @classmethod
    def keeps_parts(cls) -> bool:
        """Whether parts of some models stay with their clients."""
        return cls.is_private is not Personalization.is_private

    @classmethod
    def has_own_model(cls) -> bool:
        """Whether a client predicts with a model that differs from the received one."""
        return cls.predict is not Personalization.predict


personalizations: Registry[Personalization] = Registry("personalization", "fedlens.personalization")
