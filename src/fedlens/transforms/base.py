"""Update transforms: what happens to an update between a client's trained model and the server's step.

The idea is that of postprocessors in pfl-research (Granqvist et al. 2024, https://arxiv.org/abs/2404.06430): an ordered
chain, of which each transform may

    encode   the update at the client, after `strategy.finish`;
    decode   it where it is added: at the server, or in a worker that adds up its own clients;
    receive  a round's decoded updates at the server, one by one, and change their aggregated update.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedlens.aggregation.base import Aggregator
from fedlens.aggregation.receivers import Receiver, ReceivingAggregator
from fedlens.core.types import ClientResult, MeanMetric, Metrics, State, nbytes, prefixed, under
from fedlens.strategies.base import ClientUpdate

PLAIN_BYTES = "bytes_plain"
"""Metric of a decoded result: bytes of the model and the update without encoding."""


@dataclass(frozen=True)
class EncodingContext:
    """What a transform may know at the client.

    trainable    names that clients train; the others are running statistics
    kept         what this transform kept at this client the last time
    seed         of this task's own draws: a repeated task draws the same again
    secret_seed  of draws that the server must not foretell, such as noise and masks: a site takes it from its operating
                 system, so a repeated task draws anew; a simulation derives it from the run's seed
    told         what this transform's part at the server tells the clients in this round (`UpdateTransform.told`)
    folder       the client's own: what is written there stays when a server goes back to an earlier round. None at the
                 server, which asks for the form of an update alone
    """

    round: int
    client: str
    trainable: frozenset[str]
    kept: State
    seed: int
    secret_seed: int
    folder: Path | None = None
    told: State = field(default_factory=dict)


@dataclass(frozen=True)
class ReceivingContext:
    """What a transform may know where updates are added up.

    trainable  names that clients train; the others are running statistics
    cohort     clients that are asked in the round; None in a worker, which sees its own clients only
    kept       what this transform kept at the server after the round before
    told       what it tells the clients in this round
    """

    round: int
    trainable: frozenset[str]
    cohort: int | None = None
    kept: State = field(default_factory=dict)
    told: State = field(default_factory=dict)


class NoiseShare(ABC):
    """A client's share of the noise on one kind of numbers in the sum of a securely aggregated round.

    largest  none of the numbers is larger
    """

    largest: float

    @abstractmethod
    def spread(self, honest: int) -> float:
        """The standard deviation of a share where those of so many honest clients are enough."""

    @abstractmethod
    def draw(self, size: int, step: float, honest: int, *place: str | int) -> NDArray[np.int64] | None:
        """A share for `size` numbers, in multiples of `step`: the numbers are rounded to them. None: there is no noise.
        `place`: what else is drawn with a known seed has another one.

        Raises:
            ProtocolError: it cannot be had in such steps.
        """


@dataclass(frozen=True)
class SumNoise:
    """update  for the update
    extra   for what is sent beside it
    """

    update: NoiseShare
    extra: NoiseShare | None = None

    @property
    def shares(self) -> Mapping[str, NoiseShare]:
        return {"update": self.update, **({"extra": self.extra} if self.extra else {})}


@dataclass(frozen=True)
class Encoded:
    """An update as it travels, and what the transform keeps at the client for the next time."""

    update: ClientUpdate
    kept: State = field(default_factory=dict)


class UpdateTransform(ABC):
    """One transform. The defaults change nothing.

    name   prefix of what it keeps at clients, and of its state at the server
    dense  its decoded updates are whole tensors in their own scale, as rules of aggregation and norms expect them
    any_device  it takes updates where they are, on the GPU or in main memory; the others get them in main memory
    hides_divergence  nobody may learn whether a client's training diverged, because that depends on its images
    """

    name: ClassVar[str]
    dense: ClassVar[bool] = True
    any_device: ClassVar[bool] = False
    hides_divergence: ClassVar[bool] = False

    def encode(self, update: ClientUpdate, ctx: EncodingContext) -> Encoded:
        """The update as it travels. Shapes and types must not depend on the numbers in it: the server expects those
        that an update of zeros has."""
        return Encoded(update)

    def decode(self, result: ClientResult, model: State) -> ClientResult:
        """The inverse of `encode`, or its best estimate. `model`: tensors with the names, shapes and types of a decoded
        payload; their values do not count.

        Raises:
            ProtocolError: no client could have encoded that.
        """
        return result

    def encode_model(self, payload: State) -> State:
        """What the server sends to clients, as it travels."""
        return payload

    def decode_model(self, payload: State) -> State:
        """The inverse of `encode_model`, at the client."""
        return payload

    def told(self, kept: State) -> State:
        """What clients and receivers of a round are told, beside the model. `kept`: as `ReceivingContext.kept`."""
        return {}

    def released(self, metrics: Metrics) -> Metrics:
        """The metrics of a client that may leave it."""
        return metrics

    def receiver(self, ctx: ReceivingContext) -> Receiver | None:
        """Its part in one round; None: it has none."""
        return None

    def sum_noise(self, told: State, clients: int) -> SumNoise | None:
        """What each of a round's clients adds to its masked update, where its numbers are integers already. `told`: as
        `EncodingContext.told`; clients: that are asked in the round."""
        return None

    @classmethod
    def encodes(cls) -> bool:
        """It changes how updates travel."""
        return cls.encode is not UpdateTransform.encode


@dataclass(frozen=True)
class TransformChain:
    """Transforms in the order in which a client applies them."""

    transforms: tuple[UpdateTransform, ...] = ()

    def encode(self, update: ClientUpdate, kept: State, ctx: EncodingContext) -> Encoded:
        """The update after all of them, and what all keep; `kept`: what they kept the last time."""
        left: dict[str, Tensor] = {}
        for transform in self.transforms:
            own = replace(ctx, kept=under(transform.name, kept), told=under(transform.name, ctx.told))
            encoded = transform.encode(update, own)
            update = encoded.update
            left |= prefixed(transform.name, encoded.kept)
        return Encoded(update, left)

    def decode(self, result: ClientResult, model: State) -> ClientResult:
        """The result as it is added up. Where encoding changes its size, its report says what it would have been: that
        is computed here, and not believed from a client. A decoded result stays as it is."""
        if result.decoded:
            return result
        for transform in reversed(self.transforms):
            result = transform.decode(result, model)
        result = replace(result, decoded=True)
        if not any(transform.encodes() for transform in self.transforms):
            return result
        metrics = result.report.metrics
        down = max(metrics["bytes_down"].total if "bytes_down" in metrics else 0.0, nbytes(model))
        plain = MeanMetric(nbytes(result.payload) + nbytes(result.extra) + down, 1)
        return replace(result, report=replace(result.report, metrics={**metrics, PLAIN_BYTES: plain}))

    def encode_model(self, payload: State) -> State:
        for transform in self.transforms:
            payload = transform.encode_model(payload)
        return payload

    def decode_model(self, payload: State) -> State:
        for transform in reversed(self.transforms):
            payload = transform.decode_model(payload)
        return payload

    def told(self, kept: State) -> State:
        """What all of them tell the clients of a round, each under its name: travels beside the model, not encoded."""
        told: dict[str, Tensor] = {}
        for transform in self.transforms:
            told |= prefixed(transform.name, transform.told(under(transform.name, kept)))
        return told

    @property
    def any_device(self) -> bool:
        """Whether updates may stay on the device where they were trained."""
        return all(transform.any_device for transform in self.transforms)

    @property
    def hides_divergence(self) -> bool:
        """Whether one of them does."""
        return any(transform.hides_divergence for transform in self.transforms)

    def sum_noise(self, told: State, clients: int) -> SumNoise | None:
        """The noise of the one transform that has any. `told`: to all of them."""
        found = (one.sum_noise(under(one.name, told), clients) for one in self.transforms)
        return next((noise for noise in found if noise is not None), None)

    def released(self, metrics: Metrics) -> Metrics:
        """The metrics that all of them let out."""
        for transform in self.transforms:
            metrics = transform.released(metrics)
        return metrics

    def around(self, aggregator: Aggregator, ctx: ReceivingContext) -> Aggregator:
        """`aggregator` behind the receivers: results pass that of the client's last transform first."""

        def own(name: str) -> ReceivingContext:
            return replace(ctx, kept=under(name, ctx.kept), told=under(name, ctx.told))

        receivers = {one.name: one.receiver(own(one.name)) for one in reversed(self.transforms)}
        there = {name: receiver for name, receiver in receivers.items() if receiver is not None}
        return ReceivingAggregator(aggregator, there) if there else aggregator
