"""A little is enough: Baruch, Baruch, Goldberg 2019, "A little is enough: circumventing defenses for distributed
learning", https://arxiv.org/abs/1902.06156, Algorithm 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedlens.attacks.base import Attack, AttackContext, attacks
from fedlens.attacks.moments import Moments, RunningMoments
from fedlens.core.types import State


@attacks.register("alie", summary="a little is enough: all send the honest mean, shifted by z honest deviations")
@dataclass(frozen=True)
class ALittleIsEnough(Attack):
    """All m malicious clients of a round send μ − z σ, with the mean and standard deviation of every coordinate over
    honest updates: far enough to do harm, close enough to look like an honest update. The authors apply μ − z σ
    to gradients, which point in the opposite direction.

    `knows` chooses those updates. By default they are the benign clients', an omniscient attacker, which is the
    stronger test of a defence. `knows=own` is the attacker of Algorithm 3, which estimates both from the malicious
    clients' own honest updates: with only one of them in a round σ is 0, and it sends its honest update.

    By default z is the paper's z_max: with s = ⌊n/2 + 1⌋ − m honest clients that must lie farther out, the largest z
    with φ(z) < (n − m − s) / (n − m). With few malicious clients that is close to 0, and negative values are set to 0.
    If the malicious clients are the majority, any z would do, and s = 1 is used.
    """

    crafts: ClassVar[bool] = True

    z: Annotated[float | None, Field(ge=0, description="z; default: the paper's z_max")] = None
    knows: Annotated[
        Literal["benign", "own"],
        Field(description="whose updates μ and σ are of; own: the malicious clients' (the paper)"),
    ] = "benign"

    @property
    def omniscient(self) -> bool:
        return self.knows == "benign"

    def craft(self, honest: Sequence[State], ctx: AttackContext) -> Sequence[State]:
        z = z_max(ctx.results, len(honest)) if self.z is None else self.z
        known = ctx.benign or moments_of(honest)
        crafted = {name: value - z * known.deviation[name] for name, value in known.mean.items()}
        return [crafted] * len(honest)


def moments_of(updates: Sequence[State]) -> Moments:
    """Mean and deviation of one or more updates."""
    moments = RunningMoments()
    for update in updates:
        moments.add(update)
    return moments.result()


def z_max(results: int, malicious: int) -> float:
    """Algorithm 3, lines 1 to 3; never below 0."""
    honest = results - malicious
    supporters = max(results // 2 + 1 - malicious, 1)
    share = (honest - supporters) / honest if honest else 0.0
    return NormalDist().inv_cdf(share) if 0.5 < share < 1 else 0.0
