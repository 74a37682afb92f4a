"""The strategy seam: one algorithm, its server half and its client half, in one file.

The hooks' defaults are federated averaging, so a file holds only what its paper adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.core.registry import Registry
from fedlens.core.types import State


@dataclass(frozen=True)
class RoundContext:
    """What the server half may know.

    population  clients that there are, whether or not they can be asked in this round: the papers' N
    cohort      clients that are asked; an asynchronous schedule's buffer
    trainable   names that clients train; the others are running statistics
    """

    round: int
    num_rounds: int
    population: int
    cohort: int
    trainable: frozenset[str]


@dataclass(frozen=True)
class ServerState:
    """The shared model and what the strategy keeps on the server (momenta, control variates), by name."""

    shared: State
    extra: State = field(default_factory=dict)


@dataclass(frozen=True)
class ClientContext:
    """What the client half may know, before the first local step.

    steps      local SGD steps: those planned in `terms`, those taken in `finish`
    momentum   of the local SGD steps; None: the optimizer is another
    start      (P,) the received trainable parameters as one vector, a client's private ones included
    module     the model: as it was received in `terms`, trained in `finish`; look at it, leave it as it is
    loss       mean cross-entropy of the received model over the images that the client trains on, a malicious one's as
               it poisons them; NaN unless `needs_loss`
    received   what `broadcast` sent beyond the model
    client_state  what this client kept under the strategy's names last time it took part
    flatten    named trainable tensors → (P,), in the order of `start`; 0 where a name is missing
    unflatten  (P,) → named trainable tensors, of those that travel
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
    flatten: Callable[[State], Tensor]
    unflatten: Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class LocalTerms:
    """What an algorithm adds to the shared local loop.

    loss        (model, inputs, logits, labels) → a scalar added to the cross-entropy of a batch
    features    (inputs, features) → likewise, from what the backbone of a `Recognizer` has just made of the inputs
    correction  parameters (P,) → a vector (P,) added to the gradient of every step, after clipping
    """

    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor] | None = None
    features: Callable[[Tensor, Tensor], Tensor] | None = None
    correction: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class ClientUpdate:
    """What a client sends: its update, the update's weight, extras to be summed; and what it keeps. An extra that is a
    single number is never negative: the server takes no other from a site."""

    payload: State
    weight: float
    extra: State = field(default_factory=dict)
    client_state: State = field(default_factory=dict)


class Strategy:
    """One algorithm. The dataclass' fields are its configuration keys under `strategy`.

    needs_sgd     its mathematics takes the local steps to be SGD
    needs_mean    its mathematics takes the total to be the weighted mean of the cohort
    needs_cohort  its mathematics takes a round to be one cohort that starts from one model
    needs_loss    it wants `LocalContext.loss`, for which a client looks at all its images once more
    """

    needs_sgd: ClassVar[bool] = False
    needs_mean: ClassVar[bool] = False
    needs_cohort: ClassVar[bool] = False
    needs_loss: ClassVar[bool] = False

    def init(self, shared: State) -> ServerState:
        """The server's state before the first round."""
        return ServerState(shared)

    def broadcast(self, state: ServerState, ctx: RoundContext) -> State:
        """What goes to every client of the round: the model, and extras under names of their own."""
        return state.shared

    def step(self, state: ServerState, total: AggregatedUpdate, ctx: RoundContext) -> ServerState:
        """The server's state after the round: here x ← x + Δ."""
        return ServerState(add(state.shared, total.delta), state.extra)

    def terms(self, ctx: ClientContext) -> LocalTerms:
        """What this algorithm adds to local training."""
        return LocalTerms()

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        """What a client sends for its update `delta` = after − before (trainable tensors and running statistics)."""
        return ClientUpdate(delta, weight=float(ctx.examples))

    def largest_extras(self, ctx: ClientContext, norm: float) -> Mapping[str, float]:
        """The largest L2 norm of each extra of an honest client, where that is known: what is larger never reaches a
        sum. `norm` is that of the payload that came with them; `ctx` is the client's, with the most steps that it may
        have taken."""
        return {}

    def incompatibility(self, module: nn.Module, private: Set[str]) -> str | None:
        """Why it cannot work with this model, of which the parameters called `private` stay with the clients; None: it
        can."""
        return None


def add(state: State, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """state + delta, name by name; names without a delta stay as they are."""
    return {name: value + delta[name] if name in delta else value for name, value in state.items()}


def advance(state: State, delta: State, rate: float, trainable: Set[str]) -> dict[str, Tensor]:
    """state + rate · delta for what clients train; the others are running statistics, which are averaged plainly."""
    return add(state, {name: value * rate if name in trainable else value for name, value in delta.items()})


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    """The tensors of `state` under `prefix/name`."""
    return {f"{prefix}/{name}": value for name, value in state.items()}


def under(prefix: str, state: State) -> dict[str, Tensor]:
    """The tensors of `state` that `prefixed` put under `prefix`, by their own names."""
    return {name.removeprefix(f"{prefix}/"): value for name, value in state.items() if name.startswith(f"{prefix}/")}


strategies: Registry[Strategy] = Registry("strategy", "fedlens.strategies")
