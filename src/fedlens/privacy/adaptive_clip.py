"""Adaptive clipping: Andrew, Thakkar, McMahan and Ramaswamy 2021, https://arxiv.org/abs/1905.03871, Algorithm 1.

The clip follows a quantile of the norms of the clients' updates. Each client says beside its update whether it was
within the clip; the mean of these bits gets noise as the updates do, and the budget pays for both: a little more noise
on the updates makes the ε that of the same noise multiplier with a fixed clip (Theorem 1).

A client sends b − ½, which is b of the paper centred: it moves the sum by ½ at most, against a client that contributes
nothing. (Two clients, one with a short update and one with a long one, differ by 1.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlens.core.types import State
from fedlens.errors import ProtocolError

CLIP = "clip"
"""Name of a scalar: the clip of the next round, at the server; of this round, where a client is told."""

BELOW = "below"
"""Name of a tensor of shape (1,): ½ for an update within the clip, −½ for a longer one."""

FORM: State = {BELOW: torch.empty(1, device="meta")}
"""What a client sends beside its update."""

PARTS = 20
"""Expected clients in a round, divided by the standard deviation of the noise on the sum of bits: section 3 of the
paper."""

SMALLEST, LARGEST = 1e-9, 1e9
"""Clips stay between these, however long a run is in which all updates are zero, or ever longer."""


@dataclass(frozen=True)
class AdaptiveClip:
    """quantile          γ: the share of updates that are to be within the clip
    rate              η_C: how quickly the clip follows
    noise_multiplier  σ of updates and bits together
    cohort            m: the expected number of clients in a round
    """

    quantile: float
    rate: float
    noise_multiplier: float
    cohort: float
    fewest: ClassVar[float] = PARTS / 2
    """Clients in a round, divided by σ: with no more of them, the bits alone would cost more than there is."""

    @property
    def enough(self) -> bool:
        return self.cohort > self.fewest * self.noise_multiplier

    @property
    def bit_inflation(self) -> float:
        """σ_b / σ: standard deviation of the noise on the sum of bits, divided by the noise multiplier."""
        return self.cohort / PARTS / self.noise_multiplier if self.noise_multiplier else 1.0

    @property
    def inflation(self) -> float:
        """z_Δ / σ of Theorem 1, z_Δ = (σ⁻² − (2σ_b)⁻²)^(−1/2): by how much the noise on the updates is larger than with
        a fixed clip."""
        return (1 - (2 * self.bit_inflation) ** -2) ** -0.5 if self.noise_multiplier else 1.0

    def following(self, clip: float, means: State) -> Tensor:
        """The clip of the next round. means: of what clients sent beside their updates, over the expected cohort and
        with noise."""
        step = self.rate * (float(means[BELOW]) + 0.5 - self.quantile)
        return (clip * torch.tensor(-step, dtype=torch.float64).exp()).clamp(SMALLEST, LARGEST)


def bit(within: bool) -> Tensor:
    """(1,), centred."""
    return torch.tensor([0.5 if within else -0.5])


def clip_of(told: State, start: float) -> float:
    """The clip of a round: `start` before the first.

    Raises:
        ProtocolError: the server told a number that is none.
    """
    if CLIP not in told:
        return start
    clip = float(told[CLIP])
    if not SMALLEST <= clip <= LARGEST:
        raise ProtocolError(f"the server told an adaptive clip of {clip:g}")
    return clip
