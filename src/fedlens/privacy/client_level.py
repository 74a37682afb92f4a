"""What the modes have in common that protect a client's whole part in a run: keys, and the noise that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedlens.core.limits import Seed
from fedlens.core.randomness import KEY_BYTES, random_bytes
from fedlens.privacy.accounting import noise_for
from fedlens.privacy.base import Federation, PrivacyMode
from fedlens.privacy.mechanisms import Mechanism
from fedlens.privacy.noise import Normal, insecure_key, normal_from

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class ClientLevel(PrivacyMode):
    """Clips whole updates, and has noise of a given size added."""

    noise_multiplier: Annotated[
        Annotated[float, Field(ge=0)] | None,
        Field(description="σ: standard deviation of the noise, divided by clip; default 1"),
    ] = None
    target_epsilon: Annotated[
        Positive | None, Field(description="instead of noise_multiplier: ε after all rounds, from which σ is computed")
    ] = None
    delta: Annotated[
        Annotated[float, Field(gt=0, lt=1)], Field(description="δ at which ε is told; far below 1 / clients")
    ] = 1e-5
    budget: Annotated[Positive | None, Field(description="nothing is released that would make ε larger than this")] = (
        None
    )
    insecure_seed: Annotated[
        Seed | None, Field(description="noise and cohorts that can be repeated, and foretold: for experiments only")
    ] = None
    protects: ClassVar[bool] = True

    def contradiction(self) -> str | None:
        if self.noise_multiplier is not None and self.target_epsilon is not None:
            return (
                f"target_epsilon = {self.target_epsilon:g}: the noise is computed from it; leave noise_multiplier out"
            )
        if self.noise_multiplier == 0 and self.budget is not None:
            return f"budget = {self.budget:g}: without noise no ε is finite; set privacy.noise_multiplier above 0"
        if self.target_epsilon is not None and self.budget is not None and self.target_epsilon > self.budget:
            return f"target_epsilon = {self.target_epsilon:g}: more than privacy.budget = {self.budget:g}; lower it"
        return None

    def mechanism_with(self, noise_multiplier: float, federation: Federation) -> Mechanism:
        """How noise of that size is made over the rounds of a run."""
        raise NotImplementedError

    def noise(self, federation: Federation) -> Mechanism:
        """The mechanism of a run. Raises ConfigError as `sigma`."""
        return self.mechanism_with(self.sigma(federation), federation)

    def sigma(self, federation: Federation) -> float:
        """σ as it was given, or as `target_epsilon` needs it.

        Raises:
            ConfigError: no noise reaches `target_epsilon`.
        """
        if self.target_epsilon is None:
            return 1.0 if self.noise_multiplier is None else self.noise_multiplier
        return noise_for(
            self.target_epsilon,
            self.delta,
            lambda sigma: self.mechanism_with(sigma, federation).releases(federation.rounds),
        )

    def normal(self, *place: str | int) -> Normal:
        """A source of noise, another one at every call: the same for the same `place` only with `insecure_seed`."""
        return normal_from(self.key(*place))

    def key(self, *place: str | int) -> bytes:
        """The key of a stream of random bits, as `normal`."""
        return random_bytes(KEY_BYTES) if self.insecure_seed is None else insecure_key(self.insecure_seed, *place)
