"""A little is enough: Baruch, Baruch, Goldberg 2019, "A little is enough: circumventing defenses for distributed
learning", https://arxiv.org/abs/1902.06156, Algorithm 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedlens.attacks.base import Attack, Scene, attacks
from fedlens.federation.types import State


@attacks.register("alie", summary="a little is enough: all send their own mean, moved by a part of their deviation")
@dataclass(frozen=True)
class ALittleIsEnough(Attack):
    """All m malicious clients of a round send μ − z σ, with mean and deviation of every coordinate taken over their own
    honest updates: far enough to do harm, near enough to pass for one of the n. The authors take z σ from gradients,
    which is the other direction.

    By default z is the paper's z_max: with s = ⌊n/2 + 1⌋ − m honest clients that are to lie farther out, the largest z
    with φ(z) < (n − m − s) / (n − m). With few malicious clients that is nearly 0, and below it counts as 0; a
    majority that needs nobody's help takes s = 1, as no z is too large then.
    """

    crafts: ClassVar[bool] = True

    z: Annotated[float | None, Field(ge=0, description="z; default: the paper's z_max")] = None

    def craft(self, honest: Sequence[State], scene: Scene) -> Sequence[State]:
        z = z_max(scene.answers, len(honest)) if self.z is None else self.z

        def moved(values: Tensor) -> Tensor:
            return values.mean(0) - z * values.std(0, correction=0)

        crafted = {name: moved(torch.stack([update[name] for update in honest])) for name in honest[0]}
        return [crafted] * len(honest)


def z_max(answers: int, malicious: int) -> float:
    """Algorithm 3, lines 1 to 3; never below 0."""
    honest = answers - malicious
    supporters = max(answers // 2 + 1 - malicious, 1)
    share = (honest - supporters) / honest if honest else 0.0
    return NormalDist().inv_cdf(share) if 0.5 < share < 1 else 0.0
