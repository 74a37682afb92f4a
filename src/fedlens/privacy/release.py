"""What a run claims, and what its server does with a round's sum for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedlens.aggregation.base import AggregatedUpdate, Aggregator
from fedlens.core.types import ClientResult, PartialSum, State, prefixed, under
from fedlens.errors import PrivacyBudgetExceeded
from fedlens.privacy.accounting import Epsilon, epsilon
from fedlens.privacy.adaptive_clip import CLIP, FORM, AdaptiveClip, clip_of
from fedlens.privacy.ledger import Ledger, Spent
from fedlens.privacy.mechanisms import Mechanism
from fedlens.privacy.noise import Normal

KEPT = "privacy"
"""Prefix of what is kept from round to round, in the checkpoint."""


@dataclass(frozen=True)
class Claim:
    """The privacy that a run claims, and what it rests on.

    mechanism   how noise is made over the rounds, and what it costs
    delta       the δ at which ε is told
    budget      the largest ε at that δ that the run may spend; None: no limit
    clip        largest L2 norm of one client's update; adaptive: in the first round
    adaptive    how the clip follows the clients' updates; None: it stays
    population  all clients that may take part; 0: not known
    cohort      clients of a round on average; 0: not known
    spread      standard deviation of one coordinate of the noise in a round's mean update, divided by the clip
    normal      round → a source of noise for it; None: the clients have added the noise
    shared      the clients have added it in shares: no server sees the sum without it
    insecure    the noise can be foretold
    each_client each client has a ledger and keeps the budget by itself; what is told here is the largest ε of them
    images      among so many at least each image is hidden; 0: whole clients are
    """

    mechanism: Mechanism
    delta: float
    budget: float | None
    clip: float
    population: int
    cohort: float
    spread: float
    normal: Callable[[int], Normal] | None = None
    insecure: bool = False
    shared: bool = False
    each_client: bool = False
    images: int = 0
    adaptive: AdaptiveClip | None = None

    @property
    def clipping(self) -> str:
        """ "clip 1", or "adaptive clip, 0.1 at first"."""
        return f"adaptive clip, {self.clip:g} at first" if self.adaptive else f"clip {self.clip:g}"

    @property
    def of_sum(self) -> bool:
        """The noise hides a client in a round's sum, which is divided by `cohort`, whoever answers; else each update
        hides its own client."""
        return self.shared or self.normal is not None

    @property
    def terms(self) -> dict[str, Any]:
        """What the releases are counted by."""
        return self.mechanism.terms

    def epsilon(self, spent: Spent) -> Epsilon:
        """ε after these releases. Clients that keep the budget by themselves do not exceed it."""
        found = self.cost(spent)
        if not self.each_client or self.budget is None:
            return found
        return replace(found, value=min(found.value, self.budget))

    def cost(self, spent: Spent) -> Epsilon:
        """ε of these releases, whatever the budget is."""
        return epsilon(self.mechanism.releases(spent.rounds, spent.repeats), self.delta)

    def loudness(self, coordinates: int) -> float:
        """The expected length of a round's noise, divided by the longest that the mean of clipped updates can be."""
        return self.spread * math.sqrt(coordinates)

    def over(self, spent: Spent, following: int) -> str | None:
        """Why round `following` may not be released; None: the budget allows it."""
        if self.budget is None or self.each_client:
            return None
        after = self.epsilon(spent.and_round(following)).value
        if after <= self.budget:
            return None
        now = self.epsilon(spent).value
        return (
            f"the privacy budget is spent: ε = {now:.3g} at δ = {self.delta:g}, another round would make it "
            f"{after:.3g}, and privacy.budget is {self.budget:g}"
        )


class PrivateSum:
    """The server's part in a claim: writes down what each round spends, and adds noise where clients do not."""

    def __init__(self, claim: Claim, ledger: Ledger, forms: State) -> None:
        """`forms`: names, shapes and types of an update."""
        self.claim = claim
        self._ledger = ledger
        self._forms = forms
        self._beside = FORM if claim.adaptive else {}

    @property
    def spent(self) -> Spent:
        return self._ledger.spent

    def over(self, following: int) -> str | None:
        """Why round `following` may not be released."""
        return self.claim.over(self._ledger.spent, following)

    def resume(self, round_number: int) -> None:
        """Go on after that round, each of which has released something, whatever became of the ledger."""
        self._ledger.reach(round_number)

    def around(self, inner: Aggregator, round_number: int, kept: State) -> Aggregator:
        """`inner`, whose result is released. `kept`: what the aggregator before it kept. Called before anything with
        the clients' noise comes to the server: there each attempt at a round is a release, whoever answers.

        Raises:
            PrivacyBudgetExceeded, CheckpointError: as `released`.
        """
        if self.claim.normal is None:
            self._spend(round_number)
        return _Released(inner, self, round_number, kept)

    def released(
        self, total: AggregatedUpdate | None, round_number: int, kept: State
    ) -> tuple[AggregatedUpdate | None, State]:
        """The round's update as others may see it, and what to keep.

        Raises:
            PrivacyBudgetExceeded: the budget does not allow it. Nothing was released.
            CheckpointError: it cannot be written down. Nothing was released.
        """
        left: State = {}
        if self.claim.normal is not None:
            self._spend(round_number)
        if self.claim.of_sum:
            total, left = self._of_cohort(total, round_number, kept)
        if total is None:
            return None, left
        measures = {**total.measures, "privacy/epsilon": self.claim.epsilon(self.spent).value}
        if self.claim.cohort or self.claim.images:  # of single images it is that of a step, whoever takes part
            measures["privacy/noise"] = self.claim.loudness(sum(form.numel() for form in self._forms.values()))
        if self.claim.adaptive:
            measures["privacy/clip"] = clip_of(kept, self.claim.clip)
        return replace(total, measures=measures), left

    def _spend(self, round_number: int) -> None:
        if reason := self.over(round_number):
            raise PrivacyBudgetExceeded(f"round {round_number}: {reason}. The run is kept as it was before")
        self._ledger.spend(round_number)

    def _of_cohort(
        self, total: AggregatedUpdate | None, round_number: int, kept: State
    ) -> tuple[AggregatedUpdate, State]:
        """(Σ clipped updates + noise) / mean cohort, and what to keep. A round without any update is noise alone."""
        total = total or AggregatedUpdate(zeros(self._forms), zeros(self._beside), 0.0, 0)
        noise: State = {}
        left: State = {}
        if self.claim.normal is not None:
            forms, normal = {**self._forms, **self._beside}, self.claim.normal(round_number)
            noise, left = self.claim.mechanism.draw(round_number, forms, normal, kept)
        clip, adaptive = clip_of(kept, self.claim.clip), self.claim.adaptive
        delta = self._shared_out(total.delta, total.count, noise, clip * (adaptive.inflation if adaptive else 1.0))
        if adaptive:
            bits = self._shared_out(total.extra, total.count, noise, adaptive.bit_inflation)
            left = {**left, CLIP: adaptive.following(clip, bits)}
        return replace(total, delta=delta, extra={}), left

    def _shared_out(self, means: State, count: int, noise: State, scale: float) -> dict[str, Tensor]:
        """(Σ + scale · noise) / mean cohort. means: Σ / count; noise: empty where it is in the sum already."""
        share, spread = count / self.claim.cohort, scale / self.claim.cohort
        added = {name: value * spread for name, value in noise.items()}
        return {name: (mean.double() * share + added.get(name, 0.0)).to(mean.dtype) for name, mean in means.items()}


def zeros(forms: State) -> State:
    return {name: torch.zeros_like(form, device="cpu") for name, form in forms.items()}


class _Released(Aggregator):
    """An aggregator whose result is released."""

    def __init__(self, inner: Aggregator, sums: PrivateSum, round_number: int, kept: State) -> None:
        self._inner = inner
        self._sums = sums
        self._round = round_number
        self._kept: State = under(KEPT, kept)
        self.mergeable = inner.mergeable  # type: ignore[misc]

    def add(self, result: ClientResult) -> None:
        self._inner.add(result)

    def merge(self, partial: PartialSum) -> None:
        self._inner.merge(partial)

    def partial(self, round_number: int) -> PartialSum:
        return self._inner.partial(round_number)

    def partials(self, round_number: int) -> Sequence[PartialSum]:
        return self._inner.partials(round_number)

    def result(self) -> AggregatedUpdate | None:
        total, self._kept = self._sums.released(self._inner.result(), self._round, self._kept)
        return total

    def kept(self) -> State:
        return {**self._inner.kept(), **prefixed(KEPT, self._kept)}
