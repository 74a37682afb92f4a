"""Mechanisms: how noise is made over the rounds of a run, and what that costs.

Both need to know how clients are chosen:

    Poisson  each client with the same probability, by an independent secret coin in every round
    Cyclic   the population is divided into groups, and the groups take turns

All noise is for the sum of clipped updates, in units of the clip. A round that is begun again after something of it was
released counts as if the whole run had been released once more: its noise is drawn anew, and no client contributes more
to the second release than to all releases of a run.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fedlens.core.types import State, prefixed, under
from fedlens.errors import ConfigError
from fedlens.privacy.accounting import Release
from fedlens.privacy.factorization import BufferedToeplitz, best
from fedlens.privacy.noise import Normal, normal_like

_TELLING = 4
"""So many rounds of correlated noise are enough to see whether it is taken back as the matrix says."""

PLAN, LAST_ROUND = "plan", "round"
"""Names of kept tensors: what correlated noise was made for, and the round that it was last drawn for."""


@dataclass(frozen=True)
class Poisson:
    probability: float


@dataclass(frozen=True)
class Cyclic:
    """groups: rounds from one participation of a client to its next."""

    groups: int

    def participations(self, rounds: int) -> int:
        """The most that a client has in so many rounds."""
        return math.ceil(rounds / self.groups)


Sampling = Poisson | Cyclic


class Mechanism(ABC):
    """noise_multiplier: standard deviation of the noise, divided by the sensitivity of what it hides."""

    noise_multiplier: float

    @abstractmethod
    def releases(self, rounds: int, repeats: int = 0) -> Mapping[Release, int]:
        """What the first `rounds` rounds of a run have released, when `repeats` rounds were begun again."""

    def draw(self, round: int, like: State, normal: Normal, kept: State) -> tuple[State, State]:
        """The noise of one round, with the names and shapes of `like` in the type of `normal`; and what to keep for the
        round after it. `kept`: what the round before left, empty in round 1. By default none is added to sums.

        Raises:
            ConfigError: what was kept belongs to other noise.
        """
        return {name: torch.zeros(tensor.shape) for name, tensor in like.items()}, {}

    @abstractmethod
    def deviation(self, rounds: int) -> float:
        """The standard deviation of one coordinate of the noise of the first `rounds` rounds together."""

    @property
    def telling(self) -> int:
        """Rounds in which noise of every kind is drawn: as many as an audit has to play."""
        return 1

    @property
    def terms(self) -> dict[str, Any]:
        """What releases are counted by, as plain JSON values: a ledger counts for nothing else."""
        own = asdict(self)  # type: ignore[call-overload]
        sampling = own.pop("sampling")
        return {"mechanism": type(self).__name__, **own, **sampling}


@dataclass(frozen=True)
class Gaussian(Mechanism):
    """Independent noise in every round. noise_multiplier: its standard deviation in units of the clip."""

    noise_multiplier: float
    sampling: Sampling

    def releases(self, rounds: int, repeats: int = 0) -> Mapping[Release, int]:
        if isinstance(self.sampling, Poisson):
            return {Release(self.noise_multiplier, self.sampling.probability): rounds + repeats}
        return {Release(self.noise_multiplier): self.sampling.participations(rounds) + repeats}

    def draw(self, round: int, like: State, normal: Normal, kept: State) -> tuple[State, State]:
        return {name: value.mul_(self.noise_multiplier) for name, value in normal_like(like, normal).items()}, {}

    def deviation(self, rounds: int) -> float:
        return self.noise_multiplier * math.sqrt(rounds)


@dataclass(frozen=True)
class DPFTRL(Mechanism):
    """Noise that later rounds partly take back (`factorization`), for clients that take turns.

    noise_multiplier  standard deviation of z divided by the sensitivity of the whole run
    rounds            of the run: the matrix is optimised for them, and cannot change while the run goes on

    Keeps one tensor of 32 bits a buffer for each tensor of the model: a buffer forgets its rounding errors with its
    decay, so they remain some 1e-7 of the noise. The noise itself has the type of `normal`.
    """

    noise_multiplier: float
    sampling: Cyclic
    rounds: int

    @property
    def matrix(self) -> BufferedToeplitz:
        return best(self.rounds, self.sampling.groups)

    def releases(self, rounds: int, repeats: int = 0) -> Mapping[Release, int]:
        """All rounds are one Gaussian mechanism, also where updates depend on earlier releases (Denisov, McMahan, Rush,
        Smith, Thakurta 2022, https://arxiv.org/abs/2202.08312; with several participations: Choquette-Choo, McMahan,
        Rush, Thakurta 2023, https://arxiv.org/abs/2211.06530). After a part of the run, clients have taken part less
        often, so the same noise is more of the sensitivity."""
        if not rounds + repeats:
            return {}
        reached = self._sensitivity(max(rounds, 1))
        return {Release(self.noise_multiplier * self._sensitivity(self.rounds) / reached): 1 + repeats}

    def draw(self, round: int, like: State, normal: Normal, kept: State) -> tuple[State, State]:
        """Row `round` of C⁻¹z. Rows of rounds that were left out are drawn and dropped: the separation of a client's
        participations counts in rows."""
        last = self._last_round(kept)
        if last >= round:
            raise ValueError(f"the noise of round {round} was drawn before")
        drawn: State = {}
        buffers: list[State] = [under(f"buffer{number}", kept) for number in range(len(self.matrix.decays))]
        scale = self._scale
        for _ in range(last, round):
            drawn, buffers = self._row(
                {name: value.mul_(scale) for name, value in normal_like(like, normal).items()}, buffers
            )
        left = {PLAN: self._plan(), LAST_ROUND: torch.tensor(round)}
        for number, buffer in enumerate(buffers):
            left |= prefixed(f"buffer{number}", buffer)
        return drawn, left

    def _row(self, z: State, buffers: Sequence[State]) -> tuple[State, list[State]]:
        """y = z − Σ ω s, for buffers s that begin at 0; and the buffers after it, θ s + y."""
        y: State = z
        for scale, s in zip(self.matrix.scales, buffers, strict=True):
            y = {name: value - scale * s[name] if s else value for name, value in y.items()}
        following: list[State] = [
            {name: (decay * s[name] + value if s else value).float() for name, value in y.items()}
            for decay, s in zip(self.matrix.decays, buffers, strict=True)
        ]
        return y, following

    def _last_round(self, kept: State) -> int:
        """The round that `kept` was left by."""
        if not kept:
            return 0
        if not torch.equal(kept[PLAN], self._plan()):
            raise ConfigError(
                "privacy.mechanism = dp_ftrl: the noise of a run is made for its rounds, groups and noise multiplier, "
                f"which cannot change on the way; federated.num_rounds was {int(kept[PLAN][0])}",
                code="fixed",
                key="privacy.mechanism",
            )
        return int(kept[LAST_ROUND])

    def deviation(self, rounds: int) -> float:
        return self._scale * float(self.matrix.errors(rounds)[-1])

    @property
    def telling(self) -> int:
        """Up to a client's second participation, if that comes soon."""
        return min(self.sampling.groups + 1, self.rounds, _TELLING)

    @property
    def _scale(self) -> float:
        """The standard deviation of z."""
        return self.noise_multiplier * self._sensitivity(self.rounds)

    def _sensitivity(self, rounds: int) -> float:
        return float(self.matrix.sensitivities(rounds, self.sampling.groups)[-1])

    def _plan(self) -> Tensor:
        matrix = self.matrix
        numbers = (self.rounds, self.sampling.groups, self.noise_multiplier, *matrix.decays, *matrix.scales)
        return torch.tensor(numbers, dtype=torch.float64)
