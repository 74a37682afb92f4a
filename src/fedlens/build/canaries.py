"""Canaries: what a run's own code releases in two worlds that differ in one client, or in one image.

A canary is the worst case that the claim allows: its update (or gradient) is far longer than the clip, has the same
length in each of several tensors, and comes with a large weight; all else in the world is known and still. So a clip of
single tensors, a weight that counts, or too little noise changes what is released by more than the claim allows. The
model is small, because the noise in other directions tells nothing of the canary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.build.builders import build_algorithm, build_sampler
from fedlens.build.secure import settings_of
from fedlens.config.blocks import PRIVACY
from fedlens.config.schema import Config
from fedlens.core.seeds import from_system
from fedlens.core.types import ClientInfo, ClientReport, ClientResult, State, under
from fedlens.data.types import ClientRows, DataReport, FederatedData
from fedlens.privacy.adaptive_clip import CLIP
from fedlens.privacy.dp_sgd import Steps
from fedlens.privacy.ledger import Ledger
from fedlens.privacy.release import KEPT, Claim, PrivateSum
from fedlens.secure_aggregation.client import ClientState
from fedlens.secure_aggregation.keys import PrivateKeys
from fedlens.secure_aggregation.session import Session
from fedlens.strategies.base import ClientUpdate
from fedlens.training.context import ResidentTrainingContext
from fedlens.training.examples import Examples
from fedlens.training.flat import FlatModel
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.optimizers.sgd import SGD
from fedlens.training.settings import LocalSettings
from fedlens.training.tasks.secure_train import EXTRA, UPDATE, SecureTrainSettings, quantized_update
from fedlens.transforms.base import EncodingContext, ReceivingContext

LONG = 1000.0
"""Length of a canary, in units of the clip; also its weight."""

SHAPES = {"a": (1,), "b": (2, 2), "c": (3,), "d": (2, 1, 4)}

CANARY, OTHER = "canary", "other"
PLAYERS = 2


class World(ABC):
    """What is released with and without a canary."""

    @abstractmethod
    def play(self, present: bool) -> list[float]:
        """What is released in each round, along the canary's direction. Every call draws anew."""


class CanaryClient(World):
    """A client with a canary for its update, beside one whose update is zero.

    Where the server adds the noise, its result is what is released, with an adaptive clip that of the next round, too;
    else what leaves the client. A mask hides nothing here: the other client works together with the server, and tells
    it its share of the noise.
    """

    def __init__(self, config: Config, claim: Claim | None, rounds: int, length: float) -> None:
        """`length`: of the canary's update."""
        mode = PRIVACY.choose(config.privacy)
        self._algorithm = build_algorithm(config)
        self._sampler = build_sampler(config) if mode.cohorts != "fixed" else None
        self._noise = self._algorithm.chain.sum_noise({}, PLAYERS)
        self._left_out = mode.cohorts != "fixed" and not mode.opposite and self._noise is None
        self._quantization = settings_of(config).quantization(PLAYERS, 1, self._noise)
        self._keys = PrivateKeys.new()
        self._claim = claim
        self._rounds = rounds
        self._direction = {
            name: torch.full(shape, 1 / math.sqrt(math.prod(shape) * len(SHAPES))) for name, shape in SHAPES.items()
        }
        self._with = _scaled(self._direction, length)
        self._without = _scaled(self._direction, -length if mode.opposite else 0.0)
        self._zeros = _scaled(self._direction, 0.0)

    def play(self, present: bool) -> list[float]:
        claim = self._claim
        private = None if claim is None else PrivateSum(claim, Ledger(None, claim.terms), self._zeros)
        by_server = claim is not None and claim.normal is not None
        stored: dict[str, State] = {}
        kept: State = {}
        seen = []
        for number in range(1, self._rounds + 1):
            told = self._algorithm.chain.told(kept)
            cohort = self._cohort(number, present)
            sent = {name: self._sent(name, number, present, told, stored) for name in cohort}
            if private is None or not by_server:
                seen.extend(self._seen(sent[CANARY], present) if CANARY in sent else [0.0])
                continue
            ctx = ReceivingContext(number, frozenset(SHAPES), len(sent), kept, told)
            aggregator = private.around(self._algorithm.aggregator(ctx), number, kept)
            for result in sent.values():
                aggregator.add(result)
            total = aggregator.result()
            assert total is not None
            kept = aggregator.kept()
            seen.append(_dot(total.delta, self._direction))
            seen.extend(math.log(float(clip)) for name, clip in under(KEPT, kept).items() if name == CLIP)
        return seen

    def _cohort(self, number: int, present: bool) -> Iterator[str]:
        """The other client in every round, and the canary where the run's own sampler chooses it. Where that draws no
        coins, the canary takes part as early as it can."""
        canary = [ClientInfo(CANARY, 1, {"train": (1,)})]
        if present or not self._left_out:
            chosen = self._sampler.choose(number, canary) if self._sampler else canary
            yield from (client.name for client in chosen)
        yield OTHER

    def _sent(self, name: str, number: int, present: bool, told: State, stored: dict[str, State]) -> ClientResult:
        """What the server gets of a client, decoded."""
        payload = self._zeros if name == OTHER else self._with if present else self._without
        own = 1.0 if name == OTHER else LONG
        weight = self._algorithm.rule.weight(own, int(own))
        ctx = EncodingContext(number, name, frozenset(SHAPES), {}, from_system(0), from_system(0), told=told)
        encoded = self._algorithm.chain.encode(ClientUpdate(dict(payload), weight), stored.get(name, {}), ctx)
        stored[name] = encoded.kept
        update = encoded.update
        report = ClientReport(name, update.weight, {}, part_weights=update.part_weights)
        return self._algorithm.chain.decode(
            ClientResult(number, "train", report, update.payload, update.extra), self._zeros
        )

    def _seen(self, result: ClientResult, present: bool) -> list[float]:
        """What a client sends, without its mask: with its share of noise, where it adds one, and its bit then. That
        share hides whether it contributes anything else."""
        if self._noise is None:
            return [_dot(result.payload, self._direction)]
        if not present:
            result = replace(result, extra=_scaled(result.extra, 0.0))
        session, how = Session("", result.round, 0), self._quantization
        state = ClientState(CANARY, session, self._keys, least=PLAYERS, cohort=PLAYERS)
        settings = SecureTrainSettings(bits=how.bits, exponent=how.exponent, weight=how.weight, bound=how.bound)
        sums = how.sums(*quantized_update(state, result, settings, self._noise))
        return [_dot(under(UPDATE, sums), self._direction), *(float(bit) for bit in under(EXTRA, sums).values())]


class CanaryImage(World):
    """A client that trains one round by DP-SGD, with and without an image whose gradient is a canary.

    The loss has two classes, so the gradient of an image always has the same direction; the others' are at right angles
    to that of the canary.
    """

    def __init__(self, config: Config, claim: Claim) -> None:
        algorithm, steps = build_algorithm(config), claim.mechanism
        assert algorithm.dp_sgd is not None
        assert isinstance(steps, Steps)
        self._chain = algorithm.chain
        # batches of one image on average: σ, coins and steps are those of the claim, whatever a batch's size
        self._dp_sgd = replace(
            algorithm.dp_sgd, batch_size=1, mechanism=lambda _batches: steps, budget=None, min_images=1
        )
        images = round(1 / steps.sampling.probability)
        self._model = FlatModel(_Parts(), torch.device("cpu"), channels_last=False)
        self._zeros = _scaled(self._model.state(), 0.0)
        self._data = {present: _images(images, LONG * claim.clip * present) for present in (False, True)}
        # steps so short that the loss hardly changes
        self._lr = 1e-6 / (claim.clip**2 * max(steps.noise_multiplier, 1.0))

    def play(self, present: bool) -> list[float]:
        data = self._data[present]
        private = self._dp_sgd.begin(None, CANARY, 1, len(data.labels))
        self._model.load(self._zeros)
        local = ResidentTrainingContext(
            self._model,
            LocalSettings(),
            Examples(data, data.clients[0].train, lambda images: images, self._model.device),
            VectorOptimizer(SGD(momentum=0.0), {}),
            torch.Generator().manual_seed(from_system(0)),
            round_number=1,
            client=CANARY,
            lr=self._lr,
            kept={},
            private=private,
        )
        local.fit(1)
        update = ClientUpdate(self._model.delta(self._zeros), LONG)
        ctx = EncodingContext(1, CANARY, self._model.trainable, {}, from_system(0), from_system(0))
        sent = self._chain.encode(update, {}, ctx).update.payload
        return [sum(float(value[0, 0] - value[1, 0]) for value in sent.values()) / self._lr]


class _Parts(nn.Module):
    """(B, 4, 2) → two logits: four linear maps, whose gradients are equally long for equal inputs. Two are layers, of
    which ghost clipping takes care; of the others the gradient of each image is computed. So both ways are played, and
    the norm over them together."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(2))
        self.weights = nn.ParameterList(torch.zeros(2, 2) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        first, second, third, fourth = images.unbind(1)
        called: Tensor = self.layers[0](first) + self.layers[1](second)
        return called + F.linear(third, self.weights[0]) + F.linear(fourth, self.weights[1])


def _images(count: int, length: float) -> FederatedData:
    """`count` images (4, 2), the first of them the canary, 0 of `length` 0: its gradient is 0 then."""
    images = torch.zeros(count, len(SHAPES), 2)
    images[0, :, 0] = length
    images[1:, :, 1] = 1.0
    rows, nothing = np.arange(count), np.empty(0, np.int64)
    client = ClientRows(CANARY, rows, nothing, nothing)
    return FederatedData(
        images, torch.zeros(count, dtype=torch.long), ("a", "b"), (client,), nothing, DataReport(count), "canary"
    )


def _scaled(state: State, factor: float) -> dict[str, Tensor]:
    return {name: value * factor for name, value in state.items()}


def _dot(one: State, other: State) -> float:
    return sum(float((value.double() * other[name]).sum()) for name, value in one.items())
