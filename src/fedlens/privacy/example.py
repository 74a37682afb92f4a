"""Differential privacy of single images: every client trains by DP-SGD, so what it sends hides each of its images.

Nobody else is trusted, and nothing is hidden of a client as a whole: for few clients with many people's images each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Annotated, ClassVar

from pydantic import Field

from fedlens.core.limits import Number, Seed
from fedlens.errors import ConfigError
from fedlens.privacy.accounting import noise_for, rdp_epsilon
from fedlens.privacy.base import Federation, privacy_modes
from fedlens.privacy.client_level import ClientLevel, Positive
from fedlens.privacy.dp_sgd import DPSGD, Steps, batches_of
from fedlens.privacy.protected import ProtectedUpdate
from fedlens.privacy.release import Claim
from fedlens.transforms.base import UpdateTransform

MORE = (1.0, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 128, 256)
"""Sizes of a client at which ε is computed, in units of the smallest: with little noise a few more batches cost more,
and with many more ε falls again."""


@privacy_modes.register(
    "example", summary="every client trains by DP-SGD: each of its images is hidden, and it trusts nobody"
)
@dataclass(frozen=True)
class Example(ClientLevel):
    """g = (Σ clip(gᵢ) + N(0, (σ · clip)² I)) / expected batch in every local step, of the images that coins chose."""

    clip: Annotated[Positive, Field(description="largest L2 norm of the gradient of one image")] = 1.0
    delta: Annotated[
        Annotated[float, Field(gt=0, lt=1)],
        Field(description="δ at which ε is told; far below 1 / images of a client"),
    ] = 1e-5
    budget: Annotated[
        Positive | None, Field(description="a client whose ε would become larger than this takes no further part")
    ] = None
    insecure_seed: Annotated[
        Seed | None, Field(description="noise and batches that can be repeated, and foretold: for experiments only")
    ] = None
    min_images: Annotated[
        Number | None,
        Field(description="training images that every client has at least; default: those of the simulation"),
    ] = None
    by_image: ClassVar[bool] = True
    ledgers: ClassVar[bool] = True

    def transform(self, federation: Federation) -> UpdateTransform:
        return EqualWeight()

    def dp_sgd(self, federation: Federation) -> DPSGD:
        return DPSGD(
            self.clip,
            federation.batch_size,
            partial(self._steps, federation),
            self.delta,
            self.budget,
            self.min_images or 1,
            self.key,
        )

    def claim(self, federation: Federation) -> Claim:
        """As `PrivacyMode.claim`; ε is that of a client that takes part in every round and costs the most.

        Raises:
            ConfigError: nobody says how few images a client may have, or no noise reaches `target_epsilon`.
        """
        steps = self.noise(federation)
        return Claim(
            steps,
            self.delta,
            self.budget,
            self.clip,
            federation.population,
            federation.population * federation.fraction,
            spread=steps.noise_multiplier / federation.batch_size,
            insecure=self.insecure_seed is not None,
            each_client=True,
            images=self.min_images or min(federation.images),
        )

    def noise(self, federation: Federation) -> Steps:
        """As `ClientLevel.noise`. With a target all clients reach the same ε, the smallest with the most noise."""
        if self.target_epsilon is None:
            return self.mechanism_with(self.sigma(federation), federation)
        return self._steps(federation, min(self._sizes(federation)))

    def mechanism_with(self, noise_multiplier: float, federation: Federation) -> Steps:
        """The steps of the client whose ε is the largest after all rounds."""
        steps = (Steps.of(noise_multiplier, batches, federation.epochs) for batches in self._sizes(federation))
        return max(steps, key=lambda one: rdp_epsilon(one.releases(federation.rounds), self.delta))

    def _sizes(self, federation: Federation) -> set[int]:
        """Batches in a pass, of the clients whose ε may be the largest."""
        if self.min_images is not None:
            least = batches_of(self.min_images, federation.batch_size)
            return {round(least * more) for more in MORE}
        if federation.images:
            return {batches_of(images, federation.batch_size) for images in federation.images}
        raise ConfigError(
            "privacy.min_images is missing: ε depends on how many images a client has, which a server does not know; "
            "set it to a number that every site's training images reach",
            code="missing",
            key="privacy.min_images",
        )

    def _steps(self, federation: Federation, batches: int) -> Steps:
        """The steps of a client with so many batches in a pass. Each reaches `target_epsilon` with its own noise."""
        return _steps(
            self.noise_multiplier, self.target_epsilon, self.delta, federation.rounds, batches, federation.epochs
        )


@lru_cache(maxsize=1024)
def _steps(
    noise_multiplier: float | None, target: float | None, delta: float, rounds: int, batches: int, epochs: int
) -> Steps:
    steps = Steps.of(1.0 if noise_multiplier is None else noise_multiplier, batches, epochs)
    if target is None:
        return steps
    sigma = noise_for(target, delta, lambda sigma: replace(steps, noise_multiplier=sigma).releases(rounds))
    return replace(steps, noise_multiplier=sigma)


@dataclass(frozen=True)
class EqualWeight(ProtectedUpdate):
    """Every update weighs 1: how many images a client has stays with it, as its metrics do."""

    name: ClassVar[str] = "equal_weight"
    any_device: ClassVar[bool] = True
