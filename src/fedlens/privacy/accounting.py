"""The cost of releases: ε at a given δ, by `dp-accounting` (https://github.com/google/differential-privacy).

Gaussian mechanisms without sampling compose to one, whose ε has a closed form (Balle and Wang 2018,
https://arxiv.org/abs/1805.06530). With sampling, two accountants compute a valid upper bound; the smaller one counts:

    PLD  the privacy loss distribution, discretised so that it is never too small (Doroshenko, Ghazi, Kamath, Kumar,
         Manurangsi 2022, https://arxiv.org/abs/2207.04380)
    RDP  Rényi differential privacy (Mironov, Talwar, Zhang 2019, https://arxiv.org/abs/1908.10530)

PLD is nearly exact, so RDP wins only where PLD has no sure answer: δ is below 1e-10, or there is hardly any noise.
Opacus' PRV accountant (Gopi, Lee, Wutschitz 2021, https://arxiv.org/abs/2106.02848) bounds the same quantity as PLD
with a wider margin, so it could never win: tests compare with it.

What the guarantee is about: two data sets are neighbours if one has one client more (Poisson sampling), or if all that
one client contributes to sums is replaced by zeros (cyclic sampling, where the others' turns must not change). For
Gaussian noise on a sum of clipped updates both have the sensitivity `clip`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Literal

from fedlens.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)
"""Orders of the Rényi divergence. Any choice is valid; fractional orders are slow, and do not always converge."""

PRECISION = 1e-3
"""Relative width of the bracket in which `noise_for` ends."""

LARGEST_NOISE = 1e9

LEAST_NOISE_OF_PLD = 0.1
"""With less noise ε is above 50 after one release, and the distribution takes gigabytes."""

LEAST_DELTA_OF_PLD = 1e-10
"""Distributions are composed by FFT in float64, whose rounding can make ε for a smaller δ too small: for 1,000 releases
with σ = 1 and q = 0.01 it grows by 0.31 from δ = 1e-11 to 1e-12, but only by 0.12 from 1e-13 to 1e-14."""


@dataclass(frozen=True)
class Release:
    """One output of a mechanism that others see, with Gaussian noise.

    noise_multiplier      standard deviation of the noise divided by the sensitivity; 0: no noise
    sampling_probability  each client takes part with this probability, by an independent coin that nobody else sees
                          (Poisson sampling); 1: no amplification is claimed
    """

    noise_multiplier: float
    sampling_probability: float = 1.0


@dataclass(frozen=True)
class Epsilon:
    """An upper bound of ε, and which accountant gave it."""

    value: float
    accountant: Literal["PLD", "RDP", "closed form"]


def epsilon(releases: Mapping[Release, int], delta: float) -> Epsilon:
    """ε at `delta` of all releases together; the mapping gives how many there are of each.

    Raises:
        ConfigError: dp-accounting is not installed.
    """
    releases = {release: count for release, count in releases.items() if count and release.sampling_probability}
    if not releases:
        return Epsilon(0.0, "closed form")
    if not all(release.noise_multiplier for release in releases):
        return Epsilon(math.inf, "closed form")
    need_accountants()
    return _smallest(tuple(_merged(releases).items()), delta)


def noise_for(target_epsilon: float, delta: float, releases: Callable[[float], Mapping[Release, int]]) -> float:
    """The smallest noise multiplier σ, to 1e-3 of itself, whose `releases(σ)` cost at most `target_epsilon` at `delta`.

    Raises:
        ConfigError: none does, or dp-accounting is not installed.
    """

    def enough(sigma: float) -> bool:
        return epsilon(releases(sigma), delta).value <= target_epsilon

    if enough(0.0):
        return 0.0
    high = 1.0
    while not enough(high):
        high *= 4
        if high > LARGEST_NOISE:
            raise ConfigError(
                f"privacy.target_epsilon = {target_epsilon:g}: no noise reaches it at delta = {delta:g}; raise it",
                code="out_of_range",
                key="privacy.target_epsilon",
            )
    low = high / 4
    while enough(low) and low > 1 / LARGEST_NOISE:
        low, high = low / 4, low
    while high / low > 1 + PRECISION:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def rdp_epsilon(releases: Mapping[Release, int], delta: float) -> float:
    """A quick upper bound of `epsilon`, by Rényi divergence alone: enough to tell which of many costs the most.

    Raises:
        ConfigError: dp-accounting is not installed.
    """
    need_accountants()
    return _by_rdp(releases, delta) if all(release.noise_multiplier for release in releases) else math.inf


def need_accountants() -> None:
    """Raises:
    ConfigError: dp-accounting is not installed.
    """
    try:
        import dp_accounting  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "privacy.mode: accounting for ε needs the extra: pip install 'fedlens[privacy]'",
            code="unavailable",
            key="privacy.mode",
        ) from error


@lru_cache(maxsize=256)
def _smallest(releases: tuple[tuple[Release, int], ...], delta: float) -> Epsilon:
    """The smallest bound. Kept, because a run asks before a round whether it may follow, and after it what it cost."""
    merged = dict(releases)
    if len(merged) == 1 and (alone := next(iter(merged))).sampling_probability == 1:
        return Epsilon(_closed_form(alone.noise_multiplier, delta), "closed form")
    bounds = Epsilon(_by_pld(merged, delta), "PLD"), Epsilon(_by_rdp(merged, delta), "RDP")
    return min(bounds, key=lambda bound: bound.value)


def _merged(releases: Mapping[Release, int]) -> dict[Release, int]:
    """The same releases, those without amplification as one. Gaussian mechanisms compose exactly to one whose 1/σ² is
    the sum of theirs (Dong, Roth, Su 2022, https://arxiv.org/abs/1905.02383)."""
    sampled = {release: count for release, count in releases.items() if release.sampling_probability < 1}
    total = sum(count / release.noise_multiplier**2 for release, count in releases.items() if release not in sampled)
    return sampled | ({Release(1 / math.sqrt(total)): 1} if total else {})


def _closed_form(noise_multiplier: float, delta: float) -> float:
    import numpy as np
    from dp_accounting import get_epsilon_gaussian

    with np.errstate(divide="ignore"):  # of log(0), where ε is almost 0
        return float(get_epsilon_gaussian(noise_multiplier, delta))


def _by_pld(releases: Mapping[Release, int], delta: float) -> float:
    if delta < LEAST_DELTA_OF_PLD or min(release.noise_multiplier for release in releases) < LEAST_NOISE_OF_PLD:
        return math.inf
    interval = min(_interval(release) for release in releases)
    parts = [_distribution(release, interval).self_compose(count) for release, count in releases.items()]
    return float(reduce(lambda one, other: one.compose(other), parts).get_epsilon_for_delta(delta))


@lru_cache(maxsize=32)
def _distribution(release: Release, interval: float) -> PrivacyLossDistribution:
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    return from_gaussian_mechanism(
        release.noise_multiplier,
        value_discretization_interval=interval,
        sampling_prob=release.sampling_probability,
        use_connect_dots=True,
    )


def _interval(release: Release) -> float:
    """The interval at which the losses of `release` are discretised.

    Measured against intervals four times finer (q from 1e-4 to 0.9, σ from 0.3 to 20, up to 10,000 releases,
    δ = 1e-5): ε is too large by less than 4e-4 of itself, or where it is below 0.5, by less than 4e-4. The interval
    does not depend on the number of releases, so that ε rises in every round; it is a power of two, so that unequal
    releases share few.
    """
    precision = 1 / release.noise_multiplier**2
    most = precision if precision > 50 else min(precision, math.expm1(precision) * release.sampling_probability**2)
    return 2.0 ** math.floor(math.log2(math.sqrt(1.3e-5 * math.sqrt(most))))


def _by_rdp(releases: Mapping[Release, int], delta: float) -> float:
    from dp_accounting.rdp import compute_epsilon

    curve = sum(count * _curve(release) for release, count in releases.items())
    value, _ = compute_epsilon(ORDERS, curve, delta)
    return float(value)


@lru_cache(maxsize=256)
def _curve(release: Release) -> np.ndarray:
    """The Rényi divergence of one release at each of `ORDERS`."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(ORDERS)
    accountant.compose(PoissonSampledDpEvent(release.sampling_probability, GaussianDpEvent(release.noise_multiplier)))
    curve: np.ndarray = accountant.rdp
    return curve
