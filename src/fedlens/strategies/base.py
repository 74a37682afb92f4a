"""The strategy interface: one algorithm, with its server half and its client half in one file.

The default hooks are federated averaging, so a file holds only what its paper adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.core.registry import Registry
from fedlens.core.types import State


@dataclass(frozen=True)
class RoundContext:
    """What the server half may use.

    population  number of all clients, available in this round or not: N in the papers
    cohort      number of clients selected in the round; with an asynchronous schedule, the buffer size
    trainable   names of trainable tensors; the others are running statistics. In `step`, only those with an update:
                parts of the model to which no client gave a weight stay as they are
    """

    round: int
    num_rounds: int
    population: int
    cohort: int
    trainable: frozenset[str]


@dataclass(frozen=True)
class ServerState:
    """The shared model and the strategy's server state (momenta, control variates), by name."""

    shared: State
    extra: State = field(default_factory=dict)


class ClassFeatures(NamedTuple):
    """Of a client's training rows: the sum of the features of each class (C, D), and its rows (C,)."""

    sums: Tensor
    rows: Tensor


@dataclass(frozen=True)
class ClientContext:
    """What the client half may use, known before the first local step.

    steps         local SGD steps: planned ones in `terms`, completed ones in `finish`
    momentum      of the local SGD steps; None: the optimizer is not SGD
    start         (P,) the received trainable parameters as one vector, including the client's private ones
    module        the model, read-only: as received in `terms`, after training in `finish`
    loss          mean cross-entropy of the received model over the client's training images, for a malicious client as
                  poisoned; NaN unless `needs_loss`
    received      what `broadcast` sent besides the model
    client_state  the strategy's state that this client stored when it last took part
    class_features  evaluates the backbone of `module` as it is now on the client's training rows, without augmentation;
                  for a `Recognizer` only
    flatten       named trainable tensors → (P,), in the order of `start`; 0 where a name is missing
    unflatten     (P,) → named trainable tensors, shared ones only
    """

    round: int
    client: str
    examples: int
    steps: int
    lr: float
    momentum: float | None
    start: Tensor
    module: nn.Module
    loss: float
    received: State
    client_state: State
    class_features: Callable[[], ClassFeatures]
    flatten: Callable[[State], Tensor]
    unflatten: Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class LocalTerms:
    """What an algorithm adds to the shared local loop.

    loss        (model, inputs, logits, labels) → a scalar added to the cross-entropy of a batch
    features    (inputs, features, labels) → another such scalar, computed from the output of a `Recognizer`'s backbone
    correction  parameters (P,) → a vector (P,) added to the gradient of every step, after clipping

    A row may have no label (`core.labels.UNLABELLED`), unless the strategy declares `needs_labels` or `needs_loss`.
    """

    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor] | None = None
    features: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    correction: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class ClientUpdate:
    """What a client sends and what it stores.

    payload       the update
    weight        its weight in the mean, above 0
    extra         tensors to be summed over the clients; a scalar is never negative: the server rejects negative ones
    client_state  what the client stores
    part_weights  part of the model → weight of its tensors, 0 or more, where it is not `weight`; only if `weighs_parts`
    """

    payload: State
    weight: float
    extra: State = field(default_factory=dict)
    client_state: State = field(default_factory=dict)
    part_weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SharedModel:
    """A model before its run. `private`: the parameters that stay with the clients."""

    module: nn.Module
    private: frozenset[str] = frozenset()


class Strategy:
    """One algorithm. The fields of the dataclass are its configuration keys under `strategy`.

    needs_sgd     its derivation assumes that local steps are SGD
    needs_mean    its derivation assumes that the aggregate is the weighted mean of the cohort
    needs_cohort  its derivation assumes that all clients of a round start from one model
    needs_loss    it uses `ClientContext.loss`, for which a client evaluates the received model on all its images
    needs_own_weights  its derivation assumes the weights that `finish` gives
    adds_to_loss  its terms have a `loss` or `features`, which are of a whole batch
    needs_labels  its terms on features assume that a row has one label
    weighs_parts  `finish` gives weights by part of the model (`ClientUpdate.part_weights`)
    """

    needs_sgd: ClassVar[bool] = False
    needs_mean: ClassVar[bool] = False
    needs_cohort: ClassVar[bool] = False
    needs_loss: ClassVar[bool] = False
    needs_own_weights: ClassVar[bool] = False
    adds_to_loss: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    weighs_parts: ClassVar[bool] = False

    def init(self, shared: State) -> ServerState:
        """The server's state before the first round."""
        return ServerState(shared)

    def broadcast(self, state: ServerState, ctx: RoundContext) -> State:
        """What every client of the round receives: the model, and extra tensors under their own names."""
        return state.shared

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        """The server's state after the round; by default x ← x + Δ."""
        return ServerState(add(state.shared, total.delta), state.extra)

    def terms(self, ctx: ClientContext) -> LocalTerms:
        """What this algorithm adds to local training."""
        return LocalTerms()

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        """What a client sends for its update `delta` = after − before (trainable tensors and running statistics)."""
        return ClientUpdate(delta, weight=float(ctx.examples))

    def largest_extras(self, ctx: ClientContext, norm: float) -> Mapping[str, float]:
        """The largest L2 norm that each extra tensor of an honest client can have, where known: larger ones are
        rejected. `norm` is that of the payload sent with them; `ctx` is the client's, with the maximum number of
        steps."""
        return {}

    def incompatibility(self, given: SharedModel, /) -> str | None:
        """Why the strategy cannot work with this model: a line that starts with its key at fault ("name = 'moon': …");
        None if it can."""
        return None


def add(state: State, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """state + delta, by name; tensors without a delta are unchanged."""
    return {name: value + delta[name] if name in delta else value for name, value in state.items()}


def advance(state: State, delta: State, rate: float, trainable: Set[str]) -> dict[str, Tensor]:
    """state + rate · delta for trainable tensors; the others, running statistics, use rate 1."""
    return add(state, {name: value * rate if name in trainable else value for name, value in delta.items()})


strategies: Registry[Strategy] = Registry("strategy", "fedlens.strategies")
