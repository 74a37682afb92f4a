"""The personalisation seam: what stays with a client, and in which order its parts are trained.

The hooks' defaults are one model for everybody, so a file holds only what its paper adds. A personalisation combines
with any strategy: the strategy's terms go into the phase that trains what is sent.
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
"""kept: the client's own, whose state can stay with it; fresh: one like it; plain: SGD without momentum or decay."""


class Gradients(Protocol):
    """Gradients where the model stands at the time."""

    def __call__(self, batch: Batch) -> Tensor:
        """(P,) of the batch's mean loss, clipped as configured; valid until the next call."""
        ...

    def metrics(self) -> Metrics:
        """Loss and accuracy over the images seen."""
        ...


class LocalTrainingContext(ABC):
    """One client's bench during one task.

    round, client   of the task
    examples        training images that the client has
    epochs, lr      what the configuration gives a round's training
    module          the model; its trainable parameters are views of `vector`
    vector          (P,) live: writing to it changes the model
    start           (P,) as the model was received, private parts as they were kept
    pace            (P,) part of each step that the round takes, 0 for what rests; None: all of it. `fit` and `stepper`
                    keep to it
    kept            what this client keeps under the personalisation's names: read it, replace it
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
        """Train from the model as it stands; gives loss and accuracy over the images seen.

        over    epochs over this client's images, or batches: a generator of one's own works between two steps
        share   (P,) part of each step that is taken: 0 leaves a parameter where it is; None: all of it
        """

    @abstractmethod
    def batches(self, epochs: int) -> Iterator[Batch]:
        """This client's images; each call draws them in another order."""

    @abstractmethod
    def gradients(self, terms: LocalTerms = NO_TERMS, *, step_scale: Tensor | None = None) -> Gradients:
        """For a loop of one's own. Of `terms`, the one in the loss counts; where `share` is 0 nothing is computed."""

    @abstractmethod
    def observe(self, batch: Batch) -> None:
        """A forward pass in training, for the running statistics alone."""

    @abstractmethod
    def stepper(self) -> Callable[[Tensor, Tensor], None]:
        """The configured optimizer, fresh, at the round's learning rate: (vector, gradient) → moves the vector."""

    @abstractmethod
    def statistics(self) -> dict[str, Tensor]:
        """A copy of the running statistics: what a forward pass in training changes."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """A copy of the whole model: trainable parameters and running statistics, private ones too."""

    @abstractmethod
    def load(self, state: State) -> None:
        """Put `state` in place; names that it lacks stay as they are."""

    @abstractmethod
    def mask(self, names: frozenset[str]) -> Tensor:
        """(P,) 1 where a parameter of those names lies, else 0."""

    @abstractmethod
    def flatten(self, state: State) -> Tensor:
        """Named trainable tensors → (P,); 0 where a name is missing."""

    @abstractmethod
    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """(P,) → all named trainable tensors, as views."""


@dataclass(frozen=True)
class Personalization:
    """One method. The dataclass' fields are its configuration keys under `personalization`.

    steps_only  an update holds the shared loop's steps from the received model and nothing else: strategies that
                reckon with those steps (`Strategy.needs_sgd`) can be used with it
    shares      some of the model is shared; where nothing is, neither strategy nor rule nor attack has anything to do
    """

    steps_only: ClassVar[bool] = True
    shares: ClassVar[bool] = True

    def is_private(self, name: str, module: nn.Module) -> bool:
        """Whether the tensor called `name` of the model `module` stays with its client: kept there from round to round,
        never sent."""
        return False

    def arrive(self, local: LocalTrainingContext) -> None:
        """Before training: change what the model starts from."""

    def train(self, local: LocalTrainingContext, terms: LocalTerms) -> Metrics:
        """The round's training; what the model is afterwards is sent, less its private parts."""
        return local.fit(local.epochs, terms)

    def predict(self, local: LocalTrainingContext) -> None:
        """Make the model the one that the client uses. Nothing of it is kept."""

    def passes(self, epochs: int) -> int:
        """The most passes over a client's images that it takes to train in a round of `epochs` local epochs, and to use
        the model once. A site may limit them."""
        return epochs

    def incompatibility(self, model: nn.Module) -> str | None:
        """Why it cannot work with this model: a line that begins with the configuration key; None: it can."""
        return None

    @classmethod
    def keeps_parts(cls) -> bool:
        """Parts of some models stay with their clients."""
        return cls.is_private is not Personalization.is_private

    @classmethod
    def has_own_model(cls) -> bool:
        """A client uses another model than the one that it received."""
        return cls.predict is not Personalization.predict


personalizations: Registry[Personalization] = Registry("personalization", "fedlens.personalization")
