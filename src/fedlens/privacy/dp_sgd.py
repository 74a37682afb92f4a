"""DP-SGD at one client: Abadi et al. 2016, https://arxiv.org/abs/1607.00133, Algorithm 1.

In every step each image takes part by a coin of its own (Poisson sampling), the gradient of each is clipped, and the
sum of the clipped gradients gets Gaussian noise. What is made of these sums later, a whole round's update among it,
tells no more of an image than they do. Two sets of images are neighbours if one has one image more. The number of
images itself counts as known: it fixes the probability of the coins and the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from fedlens.errors import BUDGET_SPENT, ConfigError, PrivacyBudgetExceeded
from fedlens.privacy.accounting import Release, epsilon
from fedlens.privacy.ledger import LEDGER_FILE, Ledger
from fedlens.privacy.mechanisms import Mechanism, Poisson
from fedlens.privacy.noise import Coins, Normal, coins_from, normal_from


def batches_of(images: int, batch_size: int) -> int:
    """Batches in one pass over so many images; 1 / them is the probability of each image's coin."""
    return math.ceil(images / batch_size)


@dataclass(frozen=True)
class Steps(Mechanism):
    """`steps` noisy steps in every round, each with each image by a coin. Nothing is added to updates."""

    noise_multiplier: float
    sampling: Poisson
    steps: int

    @classmethod
    def of(cls, noise_multiplier: float, batches: int, epochs: int) -> Steps:
        """As many steps as `epochs` passes over that many batches have."""
        return cls(noise_multiplier, Poisson(1 / batches), epochs * batches)

    def releases(self, rounds: int, repeats: int = 0) -> Mapping[Release, int]:
        release = Release(self.noise_multiplier, self.sampling.probability)
        return {release: self.steps * (rounds + repeats)}

    def deviation(self, rounds: int) -> float:
        """Of the noise of one step in each of them."""
        return self.noise_multiplier * math.sqrt(rounds)


@dataclass(frozen=True)
class DPSGD:
    """What a client needs to train by DP-SGD.

    clip        largest L2 norm of one image's gradient
    mechanism   batches in a pass → the steps of a round, with their noise
    delta       the δ at which `budget` counts
    budget      the largest ε that a client spends in a run; None: no limit
    min_images  a client with fewer takes no part: what the server tells would not hold for it
    key         (place…) → the key of a stream of random bits, never the same twice
    """

    clip: float
    batch_size: int
    mechanism: Callable[[int], Steps]
    delta: float
    budget: float | None
    min_images: int
    key: Callable[..., bytes]

    def begin(self, folder: Path | None, client: str, round_number: int, images: int) -> PrivateSteps:
        """The steps of one round, written into the client's own ledger in `folder` before the first of them: whatever
        becomes of the round, something of it may have left. Without a folder nothing is written.

        Raises:
            PrivacyBudgetExceeded: the budget does not allow them, or the client has too few images.
            CheckpointError: they cannot be written down, or the ledger is of other steps.
        """
        if images < self.min_images:
            raise PrivacyBudgetExceeded(
                f"this client has fewer training images than privacy.min_images = {self.min_images}, so the run's ε "
                "does not hold for it"
            )
        mechanism = self.mechanism(batches_of(images, self.batch_size))
        ledger = Ledger(None if folder is None else folder / LEDGER_FILE, mechanism.terms)
        if self.budget is not None and _cost(mechanism, ledger.releases + 1, self.delta) > self.budget:
            raise PrivacyBudgetExceeded(f"{BUDGET_SPENT} (privacy.budget = {self.budget:g}): it takes no further part")
        ledger.spend(round_number)
        noise, coins = (self.key(what, round_number, client) for what in ("noise", "batches"))
        return PrivateSteps(mechanism, self.clip, images, normal_from(noise), coins_from(coins))


@lru_cache(maxsize=256)
def _cost(mechanism: Steps, rounds: int, delta: float) -> float:
    """Clients with equally many batches cost the same."""
    return epsilon(mechanism.releases(rounds), delta).value


class PrivateSteps:
    """The steps of one client in one round."""

    def __init__(self, mechanism: Steps, clip: float, images: int, normal: Normal, coins: Coins) -> None:
        self.clip = clip
        self._mechanism = mechanism
        self._images = images
        self._normal = normal
        self._coins = coins
        self._taken = 0

    def batches(self) -> Iterator[Tensor]:
        """A mask (N,) of the client's images for each step: those that take part in it."""
        for _ in range(self._mechanism.steps):
            yield self._coins(self._images, self._mechanism.sampling.probability)

    def add_noise(self, total: Tensor) -> None:
        """The sum of clipped gradients (P,) → (sum + noise) / expected batch, in place.

        Raises:
            ConfigError: more steps were taken than are accounted for.
        """
        self._taken += 1
        if self._taken > self._mechanism.steps:
            raise ConfigError(
                "personalization.name: this method takes more steps than privacy.mode=example accounts for; use "
                "personalization.name=none",
                code="incompatible",
                key="personalization.name",
            )
        spread = self._mechanism.noise_multiplier * self.clip
        noised = total.cpu().double()
        if spread:
            noised += spread * self._normal(noised)
        total.copy_(noised / (self._images * self._mechanism.sampling.probability))
