"""What a planned run will cost in privacy, as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fedlens.build.privacy import doubts
from fedlens.build.privacy_plan import PlannedRun
from fedlens.config.blocks import PRIVACY
from fedlens.core.words import count
from fedlens.secure_aggregation.graph import holders_needed, honest_survivors
from fedlens.tracking.wording import epsilon

BAR = 50
"""Columns of the longest bar."""

EIGHTHS = " ▏▎▍▌▋▊▉"


def plan_lines(run: PlannedRun) -> Iterator[tuple[str, str]]:
    """(label, text): what is planned, what it costs, and what the noise does to the updates."""
    claim, section, rounds = run.claim, run.config.privacy, count(run.rounds, "round")
    yield "privacy", ", ".join([section.mode, *_how(run)])
    yield "clients", f"{claim.population:,} may take part, {claim.cohort:,.4g} in a round on average"
    target = section.parameters.get("target_epsilon")
    why = f", computed from target_epsilon = {target:g}" if target is not None else ""
    yield "noise", f"σ = {run.noise_multiplier:.4g} × {claim.clipping}{why}"
    if claim.shared and run.noise_multiplier:
        yield "shares", _shares(run)
    after = run.plan.after
    yield "cost", f"ε = {epsilon(after.value)} at δ = {claim.delta:g} after {rounds}, by {after.accountant}"
    if claim.budget is not None:
        yield "budget", f"ε = {claim.budget:g}: {_reach(run)}"
    if run.noise_multiplier:
        yield "noise in a round", _loudness(run)
        if run.rounds > 1:
            yield "noise in all", _in_all(run)


def curve_lines(run: PlannedRun) -> Iterator[str]:
    """A bar for ε after some of the rounds; nothing where ε is infinite."""
    largest = run.plan.curve[-1][1]
    if not 0 < largest < math.inf:
        return
    yield f"{'rounds':>8}  {'ε':>7}"
    for number, value in run.plan.curve:
        yield f"{number:>8,}  {epsilon(value):>7}  {_bar(value / largest)}".rstrip()


def notes(run: PlannedRun) -> list[str]:
    return list(doubts(run.claim))


def _how(run: PlannedRun) -> Iterator[str]:
    """Mechanism and sampling of a mode that leaves a choice."""
    mode = PRIVACY.choose(run.config.privacy)
    if mechanism := getattr(mode, "mechanism", None):
        yield f"{mechanism} noise"
    yield f"{mode.cohorts} sampling"


def _shares(run: PlannedRun) -> str:
    """What each client adds, and for whom it is enough."""
    clients = round(run.claim.cohort)
    least = holders_needed(clients, run.config.privacy.secure_threshold)
    honest = honest_survivors(clients, least)
    return (
        f"each client adds σ = {run.noise_multiplier / math.sqrt(honest):.4g} × clip: enough where {least:,} of "
        f"{clients:,} clients stay, of which {least - honest:,} may work together with the server; where all stay, the "
        f"sum has {math.sqrt(clients / honest):.3g} times the noise"
    )


def _reach(run: PlannedRun) -> str:
    if run.plan.affordable == run.rounds:
        return f"enough for all {count(run.rounds, 'round')}"
    lasting = f"; for all of them use privacy.noise_multiplier={_up(run.lasting)}" if run.lasting else ""
    return f"enough for {run.plan.affordable:,} of {count(run.rounds, 'round')}{lasting}"


def _up(sigma: float) -> float:
    """Rounded up to four digits, so that it still is enough."""
    unit = 10.0 ** (math.floor(math.log10(sigma)) - 3)
    return round(math.ceil(sigma / unit) * unit, 12)


def _loudness(run: PlannedRun) -> str:
    text = (
        f"{run.loudness:.3g} times as long as the mean update can be, over {run.coordinates:,} shared parameters that "
        "are trained"
    )
    if not run.claim.of_sum:
        return text
    return f"{text}; as long with {count(math.ceil(run.claim.cohort * run.loudness), 'client')} in a round"


def _in_all(run: PlannedRun) -> str:
    return (
        f"{run.loudness_in_all:.3g} times as long as the sum of {count(run.rounds, 'round')} can be: noise of "
        "different rounds cancels in part, updates that agree add up"
    )


def _bar(share: float) -> str:
    whole, rest = divmod(round(share * BAR * 8), 8)
    return "█" * whole + EIGHTHS[rest].strip()
