"""Central differential privacy of clients: DP-FedAvg of McMahan, Ramage, Talwar and Zhang 2018,
https://arxiv.org/abs/1710.06963, Algorithm 1 with the fixed-denominator estimator f̃_f of its section 3.2 and w_k = 1.

The server sees clipped updates and is trusted with them; whoever sees the models that it sends out learns, of one
client's taking part, no more than ε tells. With secure aggregation it sees sums alone, to which clients have added the
noise (`privacy.distributed`): then it learns no more than the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedlens.core.limits import Clients
from fedlens.errors import ConfigError
from fedlens.privacy.adaptive_clip import AdaptiveClip
from fedlens.privacy.base import Federation, Sampling, groups_of, privacy_modes
from fedlens.privacy.bounded import BoundedUpdate
from fedlens.privacy.client_level import ClientLevel, Positive
from fedlens.privacy.distributed import DistributedGaussian, SharedNoiseUpdate
from fedlens.privacy.mechanisms import DPFTRL, Cyclic, Gaussian, Mechanism, Poisson
from fedlens.privacy.release import Claim
from fedlens.secure_aggregation.graph import honest_at_threshold
from fedlens.transforms.base import UpdateTransform


@privacy_modes.register(
    "central", summary="the server adds noise to the sum of clipped updates; whole clients are hidden"
)
@dataclass(frozen=True)
class Central(ClientLevel):
    """Δ = (Σ clip(Δᵢ) + N(0, (σ · clip)² I)) / expected cohort."""

    clip: Annotated[
        Positive | Literal["adaptive"],
        Field(
            description="largest L2 norm of one client's update; adaptive: it follows a quantile of their norms, "
            "at the same ε and with a little more noise"
        ),
    ] = 1.0
    first_clip: Annotated[
        Positive | None, Field(description="clip=adaptive: the clip of the first round; default 0.1")
    ] = None
    clip_quantile: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        Field(description="clip=adaptive: the share of the updates that are to be within the clip; default 0.5"),
    ] = None
    clip_rate: Annotated[
        Annotated[float, Field(gt=0, le=10)] | None,
        Field(description="clip=adaptive: how quickly it follows; default 0.2"),
    ] = None
    sampling: Annotated[
        Literal["poisson", "cyclic"] | None,
        Field(
            description="poisson: each client by a coin of its own; cyclic: group after group of clients; default: "
            "poisson, with secure_aggregation cyclic"
        ),
    ] = None
    mechanism: Annotated[
        Literal["gaussian", "dp_ftrl"],
        Field(
            description="gaussian: independent noise in each round; dp_ftrl: noise that later rounds partly take back"
        ),
    ] = "gaussian"
    population: Annotated[
        Clients | None, Field(description="all clients that may take part; default: those of the simulation")
    ] = None

    secure_aggregation: Annotated[
        bool, Field(description="the clients add the noise in shares, and no server sees a sum without it")
    ] = False
    secure_threshold: Annotated[
        float,
        Field(
            ge=0.5,
            le=1,
            description="fraction of a round's clients whose noise is enough, less those that are dishonest",
        ),
    ] = 2 / 3
    masks: ClassVar[bool] = True

    @property
    def cohorts(self) -> Sampling:
        return self.sampling or ("cyclic" if self.secure_aggregation else "poisson")

    def contradiction(self) -> str | None:
        if self.secure_aggregation and self.sampling == "poisson":
            return (
                "sampling = 'poisson': with privacy.secure_aggregation the claim holds against the server, which knows "
                "who takes part, so that coins amplify nothing; use privacy.sampling=cyclic"
            )
        if self.secure_aggregation and self.mechanism == "dp_ftrl":
            return (
                "mechanism = 'dp_ftrl': takes noise of earlier rounds back, and with privacy.secure_aggregation nobody "
                "knows that; use privacy.mechanism=gaussian"
            )
        if self.mechanism == "dp_ftrl" and self.cohorts == "poisson":
            return "mechanism = 'dp_ftrl': counts how often each client takes part; use privacy.sampling=cyclic"
        if self.mechanism == "dp_ftrl" and self.clip == "adaptive":
            return "clip = 'adaptive': noise that spans rounds needs one clip for all; use a number"
        if self.clip != "adaptive":
            for name in ("first_clip", "clip_quantile", "clip_rate"):
                if getattr(self, name) is not None:
                    return f"{name} = {getattr(self, name):g}: counts with privacy.clip=adaptive alone"
        return super().contradiction()

    def transform(self, federation: Federation) -> UpdateTransform:
        bounded = BoundedUpdate(self._first_clip, adaptive=self.clip == "adaptive")
        if not self.secure_aggregation:
            return bounded
        sigma = self.sigma(federation)
        return SharedNoiseUpdate(bounded.clip, bounded.adaptive, noise_multiplier=sigma, key=self.key)

    def claim(self, federation: Federation) -> Claim:
        """As `PrivacyMode.claim`.

        Raises:
            ConfigError: nobody says how many clients there are, or no noise reaches `target_epsilon`.
        """
        federation = replace(federation, population=self.population or federation.population)
        if not federation.population:
            raise ConfigError(
                "privacy.population is missing: the noise depends on how many clients may take part, and a server does "
                "not know that before they have come; set it to the number of sites",
                code="missing",
                key="privacy.population",
            )
        mechanism, cohort = self.noise(federation), self._cohort(federation)
        adaptive = self._adaptive(mechanism.noise_multiplier, cohort)
        return Claim(
            mechanism,
            self.delta,
            self.budget,
            self._first_clip,
            federation.population,
            cohort,
            spread=self._surplus(cohort) * mechanism.deviation(1) * (adaptive.inflation if adaptive else 1.0) / cohort,
            normal=None if self.secure_aggregation else lambda number: self.normal("noise", number),
            shared=self.secure_aggregation,
            insecure=self.insecure_seed is not None,
            adaptive=adaptive,
        )

    def mechanism_with(self, noise_multiplier: float, federation: Federation) -> Mechanism:
        if self.cohorts == "poisson":
            return Gaussian(noise_multiplier, Poisson(federation.fraction))
        turns = Cyclic(groups_of(federation.fraction))
        if self.secure_aggregation:
            return DistributedGaussian(noise_multiplier, turns)
        if self.mechanism == "dp_ftrl":
            return DPFTRL(noise_multiplier, turns, federation.rounds)
        return Gaussian(noise_multiplier, turns)

    @property
    def _first_clip(self) -> float:
        return (self.first_clip or 0.1) if self.clip == "adaptive" else self.clip

    def _adaptive(self, noise_multiplier: float, cohort: float) -> AdaptiveClip | None:
        """How the clip follows the updates; None: it stays.

        Raises:
            ConfigError: a round has too few clients for the noise on their bits.
        """
        if self.clip != "adaptive":
            return None
        adaptive = AdaptiveClip(self.clip_quantile or 0.5, self.clip_rate or 0.2, noise_multiplier, cohort)
        if not adaptive.enough:
            raise ConfigError(
                f"privacy.clip = 'adaptive': whether updates are within the clip gets noise, too, and with σ = "
                f"{noise_multiplier:.4g} that takes more than {adaptive.fewest * noise_multiplier:.4g} clients in a "
                f"round on average, not {cohort:.4g}; use a number, or a larger federated.fraction_fit",
                code="incompatible",
                key="privacy.clip",
            )
        return adaptive

    def _cohort(self, federation: Federation) -> float:
        """The mean number of clients in a round."""
        if self.cohorts == "cyclic":
            return federation.population / groups_of(federation.fraction)
        return federation.population * federation.fraction

    def _surplus(self, cohort: float) -> float:
        """Deviation of a sum's noise when nobody drops out or is dishonest, divided by what the claim needs."""
        if not self.secure_aggregation:
            return 1.0
        clients = max(round(cohort), 1)
        return math.sqrt(clients / honest_at_threshold(clients, self.secure_threshold))
