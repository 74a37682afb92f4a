"""What others see of one client in a round, for each way of protection: the messages of the clients' own code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from fedlens.build.builders import federation_of
from fedlens.build.experiment import Experiment
from fedlens.build.overheard import secure_round, update_of
from fedlens.build.secure import settings_of
from fedlens.core.seeds import derive
from fedlens.core.types import ClientResult, State
from fedlens.privacy.base import Federation, PrivacyMode
from fedlens.privacy.central import Central
from fedlens.privacy.client_level import ClientLevel
from fedlens.privacy.clipping import exact_norm
from fedlens.privacy.example import Example
from fedlens.privacy.ledger import LEDGER_FILE, Ledger
from fedlens.privacy.local import Local
from fedlens.privacy.own import Own, OwnNoise
from fedlens.privacy.release import PrivateSum
from fedlens.training.algorithm import Algorithm
from fedlens.transforms.base import ReceivingContext, UpdateTransform

SCALES = (0.001, 0.01)
"""Noise as tutorials add it."""

LOUDER = 1000.0
"""What a lying server multiplies the learning rate by."""


@dataclass(frozen=True)
class Seen:
    """told     who sees it, and why it is as it is
    update   what is seen, as an update
    clients  so many have added to it
    """

    title: str
    told: str
    update: State
    clients: int = 1


class Views:
    """The views of the first client of `experiment`. `mode`: of its configuration, with noise that is settled.

    shared  the model that the server sends
    plain   the client's update without protection
    """

    def __init__(self, experiment: Experiment, mode: PrivacyMode) -> None:
        self._experiment = experiment
        self._mode = mode
        self._clients = [client.name for client in experiment.train_data.clients]
        self._images = len(experiment.train_data.clients[0].train)
        self.shared = experiment.shared
        self._bare = replace(experiment.algorithm, privacy=None, dp_sgd=None, attack_plan=None)
        self.plain = self._sent(self._bare).payload

    def all(self) -> Iterator[Seen]:
        """Without protection; with the configuration's mode, or with examples of modes where it has none; and under
        secure aggregation.

        Raises:
            FedLensError: a client fails.
        """
        yield Seen("no protection", "What the client sends. The server can do this.", self.plain)
        mode = self._mode
        if isinstance(mode, Central) and not self._in_shares:
            yield self._clipped(mode)
            yield self._released(mode)
        elif isinstance(mode, Local | Example):
            yield self._noisy(mode)
        elif isinstance(mode, Own):
            yield from self._tutorial([mode.transform(self._federation)])
        elif not isinstance(mode, Central):
            yield from self._examples()
        if len(self._clients) > 1:
            yield from self._secure()

    def _examples(self) -> Iterator[Seen]:
        clip = float(f"{exact_norm(self.plain.values()) / 2:.1g}") or 1.0
        yield self._clipped(Central(clip=clip))
        yield self._noisy(Local(clip=clip, insecure_seed=self._experiment.config.seed))
        random = np.random.default_rng(derive(self._experiment.config.seed, "tutorial"))
        yield from self._tutorial([OwnNoise("add_dp_noise", partial(add_dp_noise, random), scale) for scale in SCALES])

    # -- differential privacy ------------------------------------------------------------------------------------------

    def _clipped(self, mode: Central) -> Seen:
        sent = self._sent(self._with(mode.transform(self._federation))).payload
        before, after = exact_norm(self.plain.values()), exact_norm(sent.values())
        cut = f"from length {before:.2g} to {after:.2g}"
        if after == before:
            cut = f"but its length of {before:.2g} is below {mode.clip} already"
        told = (
            f"Clipped, {cut}, and without noise yet. The direction stays, so clipping alone hides nothing: in this "
            "mode the clients trust the server."
        )
        return Seen("central: the server sees", told, sent)

    def _released(self, mode: Central) -> Seen:
        algorithm, experiment = self._with(mode.transform(self._federation)), self._experiment
        claim = mode.claim(self._federation)
        forms = {name: value.to("meta") for name, value in self.shared.items()}
        sums = PrivateSum(claim, Ledger(experiment.folder / LEDGER_FILE, claim.terms), forms)
        receiving = ReceivingContext(1, experiment.trained, len(self._clients))
        aggregator = sums.around(algorithm.aggregator(receiving), 1, {})
        for client in self._clients:
            aggregator.add(self._sent(algorithm, client=client))
        total = aggregator.result()
        assert total is not None
        told = (
            f"The mean of {len(self._clients)} clipped updates, with noise of {_times_clip(mode)} in their sum: all "
            "that anybody but the server can compute from the models."
        )
        return Seen("central: all others see", told, total.delta, len(self._clients))

    def _noisy(self, mode: Local | Example) -> Seen:
        """Noise that a client adds by itself."""
        transform, dp_sgd = mode.transform(self._federation), mode.dp_sgd(self._federation)
        sent = self._sent(replace(self._bare, privacy=transform, dp_sgd=dp_sgd)).payload
        what = "Each image's gradient is" if mode.by_image else "The update is"
        told = (
            f"{what} clipped to {mode.clip:g} and gets noise of {_times_clip(mode)} before anything leaves the "
            "client. The server sees this."
        )
        return Seen("example" if mode.by_image else "local", told, sent)

    # -- noise without a clip ------------------------------------------------------------------------------------------

    def _tutorial(self, noises: Sequence[OwnNoise]) -> Iterator[Seen]:
        for noise in noises:
            told = (
                f"Noise of {noise.noise_scale:g} on every number, and nothing is clipped. What that hides depends on "
                f"how long the update happens to be, here {exact_norm(self.plain.values()):.2g}."
            )
            sent = self._sent(self._with(noise)).payload
            yield Seen(f"{noise.where}, {noise.noise_scale:g}", told, sent)
        yield self._louder(noises[-1])

    def _louder(self, noise: OwnNoise) -> Seen:
        """The same noise, where the server makes every update long."""
        told = (
            f"The same noise, and a server that lies: with its model it sends a learning rate {LOUDER:,.0f} times as "
            "large. Nothing bounds the update, so it grows; the noise does not."
        )
        sent = self._sent(self._with(noise), faster=LOUDER).payload
        return Seen(f"{noise.where}, {noise.noise_scale:g}, a lying server", told, sent)

    # -- secure aggregation --------------------------------------------------------------------------------------------

    def _secure(self) -> Iterator[Seen]:
        count, config = len(self._clients), self._experiment.config
        algorithm = self._with(self._mode.transform(self._federation)) if self._in_shares else self._bare
        results = [self._sent(algorithm, client=client) for client in self._clients]
        done = secure_round(results, settings_of(config), self._images, algorithm.chain.sum_noise({}, count))
        told = "What the server receives of this client: every number is uniformly random."
        yield Seen("secure aggregation: one client", told, done.masked[self._clients[0]])
        told = (
            f"All that the server can open: the sum of {count} clients, as of one batch of {count * self._images} "
            f"images. It hides whose they are, and more clients make it harder; {self._noise_of_sum}."
        )
        yield Seen("secure aggregation: the sum", told, done.mean, count)

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def _in_shares(self) -> bool:
        """Clients add noise to masked updates."""
        return isinstance(self._mode, Central) and self._mode.secure_aggregation

    @property
    def _noise_of_sum(self) -> str:
        if not isinstance(self._mode, Central) or not self._in_shares:
            return "it has no noise"
        return f"the clients have added shares of noise to it, of {_times_clip(self._mode)} at least"

    @property
    def _federation(self) -> Federation:
        return federation_of(self._experiment.config, len(self._clients), [self._images] * len(self._clients))

    def _with(self, transform: UpdateTransform | None) -> Algorithm:
        return replace(self._bare, privacy=transform)

    def _sent(self, algorithm: Algorithm, client: str = "", faster: float = 1.0) -> ClientResult:
        return update_of(self._experiment, client or self._clients[0], algorithm, self.shared, faster)


def add_dp_noise(random: np.random.Generator, parameters: Sequence[np.ndarray], noise_scale: float) -> list[np.ndarray]:
    """As tutorials have it, with a seed."""
    return [value + random.normal(0.0, noise_scale, value.shape) for value in parameters]


def _times_clip(mode: ClientLevel) -> str:
    """The noise, without a line break inside."""
    return f"{1.0 if mode.noise_multiplier is None else mode.noise_multiplier:.3g}\u00a0×\u00a0clip"
