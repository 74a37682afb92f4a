"""Distributed differential privacy: the noise on a sum, in shares that clients add to their masked updates (Kairouz,
Liu, Steinke 2021, https://arxiv.org/abs/2102.06387). Nobody sees a sum without it, so no server is trusted with it.

Every share has the distribution N_ℤ(0, s²) on the grid to which updates are rounded. What is claimed is the ε of
Gaussian noise of deviation σ · Δ on the sum, where Δ is the largest norm of a rounded update: clip/step + √d/2, since
each of the d coordinates is rounded to the nearest integer. With h honest survivors at least,

    s² = (σ² Δ² + r²) / h,   r = 6,

and s ≥ 8, the claim follows from one fact. Let φ_ρ be the density of N(0, ρ²). By Poisson's summation formula
Σ_k φ_ρ(k − c) over all integers k is between 1 − β and 1 + β for every c, with β = 3 exp(−2π²ρ²): below 10⁻²⁶⁰ for
ρ > 5.6.

1. The sum of N_ℤ(0, a²) and N_ℤ(0, b²) at z is φ_{√(a² + b²)}(z) · Σ_k φ_ρ(k − c) / (Σ_k φ_a(k) · Σ_k φ_b(k)), with
   1/ρ² = 1/a² + 1/b²: each probability is that of N_ℤ(0, a² + b²), times 1 ± 5β. So h shares together are N_ℤ(0, h s²),
   times 1 ± 5hβ; Kairouz et al. bound such sums alike. ρ ≥ s/√2 > 5.6.
2. N_ℤ(0, S²) is Gaussian noise g of variance S² − r², followed by a draw from the discrete Gaussian of variance r²
   around g: the probability of z is ∫ φ_{√(S² − r²)}(g) · φ_r(z − g) / Σ_k φ_r(k − g) dg, which is φ_S(z) times 1 ± 2β.
   That draw does not look at the data. So N_ℤ(0, h s²) on integers costs no more than N(0, σ² Δ²), but for the factors
   1 ± β: in a million coordinates and a million rounds they change ε and δ by less than 10⁻²⁴⁰.

Noise of further survivors, the modulus and the masks do nothing to the data: they cost nothing. The rounding to a grid
makes the noise larger, not ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from fedlens.core.randomness import key_stream
from fedlens.core.types import State
from fedlens.errors import ProtocolError
from fedlens.privacy.adaptive_clip import PARTS, AdaptiveClip, clip_of
from fedlens.privacy.bounded import BoundedUpdate
from fedlens.privacy.discrete import LARGEST_DEVIATION, Integers, discrete_gaussian
from fedlens.privacy.mechanisms import Gaussian
from fedlens.transforms.base import NoiseShare, SumNoise

SMOOTH = 6.0
"""r, in steps of the grid."""

LEAST_DEVIATION = 8.0
"""s at least, in steps of the grid."""

ROUNDING = 1 + 1e-8
"""A norm in floating point may be a little smaller than the right one."""


@dataclass(frozen=True)
class DistributedGaussian(Gaussian):
    """Independent noise in every round, in shares of the clients: it costs what `Gaussian` costs."""


@dataclass(frozen=True)
class GaussianShare(NoiseShare):
    """Of noise whose standard deviation is `noise_multiplier` · `largest`.

    largest  L2 norm of the numbers that it hides
    key      (place…) → the key of a stream of random bits
    """

    largest: float
    noise_multiplier: float
    key: Callable[..., bytes]

    def spread(self, honest: int) -> float:
        return self.noise_multiplier * self.largest / math.sqrt(honest)

    def draw(self, size: int, step: float, honest: int, *place: str | int) -> Integers | None:
        """As `NoiseShare.draw`.

        Raises:
            ProtocolError: the grid is too coarse or too fine for the noise.
        """
        if not self.noise_multiplier:
            return None
        deviation = self.deviation(size, step, honest)
        if not LEAST_DEVIATION <= deviation <= LARGEST_DEVIATION:
            raise ProtocolError(f"its noise would be {deviation:g} steps of the grid, which are {step:g}")
        return discrete_gaussian(key_stream(self.key("share", *place)), size, deviation)

    def deviation(self, size: int, step: float, honest: int) -> float:
        """s, in steps of the grid."""
        bound = self.largest / step * ROUNDING + math.sqrt(size) / 2
        return math.sqrt(((self.noise_multiplier * bound) ** 2 + SMOOTH**2) / honest)


@dataclass(frozen=True)
class SharedNoiseUpdate(BoundedUpdate):
    """A bounded update, whose client adds its share of the sum's noise where it is masked.

    noise_multiplier  σ: standard deviation of the noise on the sum, divided by the clip
    key               as `GaussianShare.key`
    """

    noise_multiplier: float = field(kw_only=True)
    key: Callable[..., bytes] = field(kw_only=True)
    name: ClassVar[str] = BoundedUpdate.name
    hides_divergence: ClassVar[bool] = True

    def sum_noise(self, told: State, clients: int) -> SumNoise:
        """As `UpdateTransform.sum_noise`. Bits of adaptive clipping have at least the noise multiplier of the whole, so
        that there is enough for them in the smallest rounds, too."""
        sigma, clip = self.noise_multiplier, clip_of(told, self.clip)
        if not self.adaptive:
            return SumNoise(GaussianShare(clip, sigma, self.key))
        split = AdaptiveClip(0.5, 0.0, sigma, max(clients, PARTS * sigma))
        return SumNoise(
            GaussianShare(clip, split.inflation * sigma, self.key),
            GaussianShare(0.5, 2 * split.bit_inflation * sigma, self.key),
        )
