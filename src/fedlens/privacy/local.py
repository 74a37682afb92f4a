"""Local differential privacy: each client clips and adds noise before anything leaves it, so it trusts nobody.

The Gaussian mechanism at each client. Whatever a client's images are, its update lies in the ball of radius `clip`; two
of them differ by at most 2 · clip, and that is the sensitivity that is accounted for (replacement of all its images).
Nothing is amplified: who takes part is no secret.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedlens.core.types import State
from fedlens.errors import BUDGET_SPENT, PrivacyBudgetExceeded
from fedlens.privacy.accounting import Release, epsilon
from fedlens.privacy.base import Federation, groups_of, privacy_modes
from fedlens.privacy.client_level import ClientLevel, Positive
from fedlens.privacy.clipping import clipped
from fedlens.privacy.ledger import LEDGER_FILE, Ledger
from fedlens.privacy.mechanisms import Cyclic, Gaussian, Mechanism
from fedlens.privacy.noise import Normal
from fedlens.privacy.protected import ProtectedUpdate
from fedlens.privacy.release import Claim
from fedlens.transforms.base import EncodingContext, UpdateTransform

SENSITIVITY = 2.0
"""Two updates of norm 1 at most differ by so much at most."""


@privacy_modes.register(
    "local", summary="each client adds noise to its own clipped update: it trusts nobody, not the server"
)
@dataclass(frozen=True)
class Local(ClientLevel):
    """Δᵢ = clip(Δᵢ) + N(0, (σ · clip)² I) at every client; the server takes their mean, as without privacy."""

    clip: Annotated[Positive, Field(description="largest L2 norm of one client's update")] = 1.0
    sampling: Annotated[
        Literal["fixed", "cyclic"],
        Field(description="fixed: as many clients as `federated` says; cyclic: group after group of clients"),
    ] = "fixed"

    ledgers: ClassVar[bool] = True
    opposite: ClassVar[bool] = True

    def transform(self, federation: Federation) -> UpdateTransform:
        return NoisyUpdate(self.clip, self.sigma(federation), self.delta, self.budget, self.normal)

    def claim(self, federation: Federation) -> Claim:
        sigma, cohort = self.sigma(federation), federation.population * federation.fraction
        return Claim(
            self.mechanism_with(sigma, federation),
            self.delta,
            self.budget,
            self.clip,
            federation.population,
            cohort,
            spread=sigma / math.sqrt(max(cohort, 1)),
            insecure=self.insecure_seed is not None,
        )

    def mechanism_with(self, noise_multiplier: float, federation: Federation) -> Mechanism:
        groups = groups_of(federation.fraction) if self.sampling == "cyclic" else 1
        return Gaussian(noise_multiplier / SENSITIVITY, Cyclic(groups))


@dataclass(frozen=True)
class NoisyUpdate(ProtectedUpdate):
    """Clips an update, writes its release into the client's own ledger, and adds noise.

    noise_multiplier  standard deviation of the noise, divided by the clip
    budget            the largest ε at `delta` that this client spends; None: no limit
    normal            (place…) → a source of noise
    """

    clip: float
    noise_multiplier: float
    delta: float
    budget: float | None
    normal: Callable[..., Normal]
    name: ClassVar[str] = "noisy"
    hides_divergence: ClassVar[bool] = True

    def protected(self, payload: State, ctx: EncodingContext) -> State:
        """As `ProtectedUpdate.protected`.

        Raises:
            PrivacyBudgetExceeded: this client's budget does not allow another release.
            CheckpointError: it cannot be written down. Nothing was released.
        """
        if ctx.folder is not None:
            self._spend(
                Ledger(ctx.folder / LEDGER_FILE, {"name": self.name, "noise_multiplier": self.noise_multiplier}), ctx
            )
        normal, payload = self.normal("noise", ctx.round, ctx.client), clipped(payload, self.clip)
        spread = self.noise_multiplier * self.clip
        return {
            name: (payload[name].double() + spread * normal(payload[name])).to(payload[name].dtype)
            for name in sorted(payload)
        }

    def _spend(self, ledger: Ledger, ctx: EncodingContext) -> None:
        if self.budget is not None:
            after = epsilon({Release(self.noise_multiplier / SENSITIVITY): ledger.releases + 1}, self.delta).value
            if after > self.budget:
                raise PrivacyBudgetExceeded(
                    f"{BUDGET_SPENT}: another update would make its ε {after:.3g} at δ = {self.delta:g}, and "
                    f"privacy.budget is {self.budget:g}"
                )
        ledger.spend(ctx.round)
