"""Differential privacy: noise that drowns what is learnt, and a clip that leaves too little of it."""

from __future__ import annotations

import math

import numpy as np

from fedlens.explain.evidence import Evidence, Series
from fedlens.tracking.findings import Finding
from fedlens.tracking.intervals import wilson
from fedlens.tracking.summary import last_with

LOUD = 3
"""Noise of differential privacy so many times as long as the mean update can be leaves little of it."""

BITES = 0.3
"""The combined update without its noise, divided by the clip. Updates that are all clipped give the square root of
their mean cosine, about 0.3 and more while they still agree; shorter ones give less."""

NEVER = 0.02
"""As `BITES`: what remains if nearly all updates are far shorter than the clip."""


def drowned(run: Evidence) -> Finding | None:
    """The noise is far longer than what it is added to, and nothing was learnt."""
    noise = _last(run, "privacy/noise")
    if not noise >= LOUD or last_with(run.metrics, "test") is None:
        return None
    if above_floors(run) and not run.final > run.guessing:
        return None
    what, more = "round is {} times as long as the mean of clipped updates", "more clients a round"
    if run.value("privacy.mode") == "example":
        what, more = "step is {} times as long as the mean of clipped gradients", "a larger federated.batch_size"
    return Finding(
        "noise drowns the signal",
        "the noise of differential privacy drowns what is learnt",
        f"the noise of each {what.format(f'{noise:.3g}')} can be, so nothing was learnt",
        noise / LOUD,
        advice=f"Use {more} (the noise of the mean falls with their number), a smaller model (model.name=lenet), a "
        "smaller part of it (model.freeze), or less noise",
        curve=run.curve(noise_over_largest_update=run.measure("privacy/noise")),
        axis="ratio of lengths",
    )


def clip_too_low(run: Evidence) -> Finding | None:
    """Steps are as long as the clip lets them be, and too short for the rounds that there are."""
    clip, (signal, _), length = run.typical(_clips(run)), _signal(run), run.typical(run.measure("norm/model"))
    if not signal >= BITES or not length > 0:
        return None
    pace, rounds = clip / length, float(run.value("federated.num_rounds", 1))
    if not pace * rounds < REACH:
        return None
    return Finding(
        "privacy clip too low",
        "the clip of differential privacy leaves steps that are too short",
        f"all {rounds:.0f} rounds together can move the model by {pace * rounds:.1%} of its length at most, and the "
        f"combined update is {signal:.0%} as long as the clip ({clip:g}): nearly every update is cut",
        REACH / (pace * rounds),
        changes=({"privacy.clip": f"{10 * clip:g}"}, {"privacy.clip": "adaptive"}),
        curve=run.curve(step_over_model=run.movement),
        axis="ratio of lengths",
    )


REACH = 0.2
"""Models that learn from random weights move by about their own length; with less than a fifth they stay what they
were."""


def clip_never_bites(run: Evidence) -> Finding | None:
    """Updates are far shorter than the clip, to which the noise is measured."""
    clip, (_, signal), noise = run.typical(_clips(run)), _signal(run), _last(run, "privacy/noise")
    if not signal < NEVER or not noise > 5 * signal or noise >= LOUD or run.value("privacy.clip") == "adaptive":
        return None
    return Finding(
        "privacy clip too high",
        "the clip of differential privacy never bites, so its noise is larger than it has to be",
        f"the combined update without noise is at most {signal:.1%} as long as the clip ({clip:g}), with which the "
        "noise grows",
        NEVER / max(signal, NEVER / 10),
        changes=({"privacy.clip": "adaptive"}, {"privacy.clip": f"{clip / 10:g}"}),
        curve=run.curve(step_over_model=run.movement),
        axis="ratio of lengths",
    )


def above_floors(run: Evidence) -> bool:
    """The last test accuracy is above the floors, by more than its interval."""
    found = last_with(run.metrics, "test")
    if not found or found.get("accuracy") is None:
        return False
    low, _ = wilson(found["accuracy"], found.get("examples", 0)) or (0.0, 1.0)
    return low > max(found.get("chance") or 0.0, found.get("majority") or 0.0)


def _last(run: Evidence, name: str) -> float:
    """NaN where it was not measured."""
    value = run.metrics[-1].get("measures", {}).get(name)
    return math.nan if value is None else float(value)


def _clips(run: Evidence) -> Series:
    """Of whole updates, by round; NaN where there is none."""
    if run.value("privacy.mode", "none") not in ("central", "local"):
        return run.series(lambda _line: None)
    clip = run.value("privacy.clip")
    return run.measure("privacy/clip") if clip == "adaptive" else run.series(lambda _line: clip)


def _signal(run: Evidence) -> tuple[float, float]:
    """(length of the combined update without the expected noise, divided by the clip; the most that it may be), where
    the server's step is the combined update. The lengths of noise vary, so the second is two standard errors above the
    mean of the squares."""
    if run.value("strategy.name") not in ("fedavg", "fedprox"):
        return math.nan, math.nan
    steps = run.series(lambda line: line.get("update_norm")) / _clips(run)
    squares = steps**2 - run.measure("privacy/noise") ** 2
    told = squares[np.isfinite(squares)]
    if len(told) < 2:
        return math.nan, math.nan
    most = float(told.mean() + 2 * told.std(ddof=1) / math.sqrt(len(told)))
    return math.sqrt(max(run.typical(squares), 0.0)), math.sqrt(max(most, 0.0))
