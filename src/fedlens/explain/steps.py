"""Steps that are too long or too short: the clients' and the server's."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from fedlens.core.words import count
from fedlens.explain.evidence import GAINED, LOST, SKEWED, Evidence, mean
from fedlens.explain.privacy import drowned
from fedlens.tracking.findings import Finding

DIVERGED = "training diverged"
"""Start of the failure reason of a client whose update or loss is not finite (`training.tasks.train`)."""

FAR_ABOVE = 3
"""A training loss of so many times guessing is no longer that of a model that learns."""

HALF = 0.5
"""A round's step of half the model's length leaves little of what the weights were before."""

AGREE = 0.5
"""Mean cosine of two clients' updates from which they have more in common than what is their own: of the square of the
length of their sum, noise of single batches is the smaller part (the reasoning of McCandlish et al. 2018,
https://arxiv.org/abs/1812.06162, section 2.2, with clients in place of batches), so that a longer step in this
direction would still be a good one."""

SLOW = 0.01
"""At a step of less than this fraction of the model's length, a hundred rounds do not change the model as a whole."""

OVERSHOOT = 2
"""A server's step of so many times the mean update. Momentum of 0.9 makes it up to 10 times as long where updates
agree; it only counts where the server's model is worse than the clients'."""


def rate_too_high(run: Evidence) -> Finding | None:
    """Clients diverge, the training loss is far above guessing, or one round's step is as long as the model."""
    if server_too_far(run) or drowned(run) or run.value("attack.name", "none") != "none":
        return None
    lost = diverged(run)
    tasks = sum(len(line["cohort"]) + len(line["failures"]) for line in run.metrics)
    loss = run.metrics[-1].get("train_loss")
    longest = float(np.nanmax(run.movement, initial=0.0))
    if lost:
        strength, seen = 1 + 9 * lost / tasks, f"{lost} of {count(tasks, 'client update')} diverged"
    elif not run.private and run.told_losses and not _below(loss, FAR_ABOVE * run.guessing):
        strength = 10.0
        seen = f"the training loss ended far above that of guessing ({run.guessing:.2f})"
    elif longest >= HALF and not run.private and run.unlearnt:
        strength, seen = longest / HALF, f"one round changed the model by {longest:.2g} times its own length"
    else:
        return None
    lr = float(run.value("optimizer.lr", 1.0))
    return Finding(
        "learning rate too high",
        "the learning rate is too high",
        f"{seen}, with optimizer.lr={lr:g}",
        strength,
        changes=({"optimizer.lr": f"{smaller(lr):g}"}, {"optimizer.lr": f"{smaller(lr) / 10:g}"}),
        curve=run.curve(training_loss=run.series(lambda line: line.get("train_loss"))),
    )


def diverged(run: Evidence) -> int:
    """Updates that were not finite."""
    return sum(one["reason"].startswith(DIVERGED) for line in run.metrics for one in line["failures"])


def smaller(lr: float) -> float:
    """A tenth of it, or as often a tenth as it takes to be at most 0.1."""
    lr /= 10
    return smaller(lr) if lr > 0.1 else lr


def rate_too_low(run: Evidence) -> Finding | None:
    """The model has not learnt all that it could, and steps are short, or all clients pull in one direction."""
    gained, longest = run.gained, float(np.nanmax(run.movement, initial=0.0))
    if not run.unfinished or longest >= HALF or diverged(run) or clipped_too_much(run):
        return None
    if run.fits and not gained > GAINED:
        return None  # training images are learnt: see broken statistics and overfitting
    pace, agreement = run.typical(run.movement), run.late(run.agreement)
    slow, agreed = SLOW / pace if pace > 0 else math.nan, agreement / AGREE
    strength = max((value for value in (slow, agreed) if not math.isnan(value)), default=0.0)
    if strength < 1 or run.private or run.value("compression.name", "none") != "none":
        return None
    seen = [f"a round changes the model by {pace:.2%} of its length"] if slow >= 1 else []
    seen += [f"clients' updates point the same way (mean cosine {agreement:.2f})"] if agreed >= 1 else []
    falling = f"the loss still falls ({gained:.0%} of its fall came in the last third of the rounds)"
    if run.unlearnt:
        falling = f"the loss has hardly left that of guessing ({run.final:.2f} of {run.guessing:.2f})"
    lr, server_lr = float(run.value("optimizer.lr", 1.0)), run.value("strategy.server_lr")
    by = min(10.0, max(3.0, strength))
    changes: list[Mapping[str, str]] = [{"optimizer.lr": _rounded(by * lr)}]
    if server_lr is not None and run.typical(run.stride) < 1:
        changes.insert(0, {"strategy.server_lr": _rounded(by * float(server_lr))})
    if agreed >= 1:
        changes.append({"federated.local_epochs": str(3 * int(run.value("federated.local_epochs", 1)))})
    return Finding(
        "learning rate too low",
        "steps are too short",
        f"{falling}, and {' and '.join(seen)}",
        strength,
        changes=changes,
        curve=run.losses,
    )


def too_few_rounds(run: Evidence) -> Finding | None:
    """The held-out loss still falls."""
    gained = run.gained
    if not run.done or not gained > GAINED or drowned(run):
        return None
    planned = run.metrics[-1]["round"]
    return Finding(
        "too few rounds",
        "training ended before it was finished",
        f"{gained:.0%} of all that the loss on held-out images has fallen came in the last third of the rounds",
        gained / GAINED,
        kind="symptom",
        rounds=None if run.private else 2 * planned,
        advice="More rounds cost more privacy: give them to a new run" if run.private else "",
        curve=run.losses,
    )


def clipped_too_much(run: Evidence) -> Finding | None:
    """Nearly every gradient is clipped, and the loss still falls."""
    clipped, clip, pace = mean(run.told("clipped")), run.value("optimizer.clip_norm"), run.typical(run.movement)
    if clip is None or not clipped > 0.9 or not run.unfinished or np.nanmax(run.movement, initial=0.0) >= HALF:
        return None
    return Finding(
        "gradients clipped too much",
        "clipping shortens nearly every step",
        f"{clipped:.0%} of the gradients were longer than optimizer.clip_norm={float(clip):g}, and the loss is at "
        f"{run.final:.2f}, with {run.guessing:.2f} for guessing",
        max(SLOW / pace, 1.0) if pace > 0 else 1.0,
        changes=({"optimizer.clip_norm": _rounded(10 * float(clip))},),
        curve=run.curve(gradients_clipped=run.told("clipped")),
        axis="share of the steps",
    )


def server_overshoots(run: Evidence) -> Finding | None:
    """The server's step is much longer than the mean update, and its model worse than the clients'."""
    if not server_too_far(run):
        return None
    stride, (trained, received) = _stride(run), run.kept
    server_lr, momentum = run.value("strategy.server_lr"), run.value("strategy.server_momentum")
    changes: list[Mapping[str, str]] = []
    if momentum is not None and momentum > 0:
        changes.append({"strategy.server_momentum": f"{momentum / 2:g}"})
    if server_lr is not None:
        changes.append({"strategy.server_lr": _rounded(float(server_lr) / stride)})
    return Finding(
        "server's step too long",
        "the server steps too far",
        f"its step is {stride:.2g} times as long as the mean of the clients' updates; after local training the loss is "
        f"{trained:.2f}, and the server's model has {received:.2f}",
        stride / OVERSHOOT,
        changes=changes,
        curve=run.curve(step_over_mean_update=run.stride),
        axis="ratio of lengths",
    )


def server_too_far(run: Evidence) -> bool:
    """The server's step is much longer than the mean update, and its model of no use, or worse than the clients'
    without labels that would explain it."""
    worse = (run.lost >= LOST / 2 and not run.unlike >= SKEWED) or run.unlearnt
    return bool(_stride(run) > OVERSHOOT and worse and not run.private)


def _stride(run: Evidence) -> float:
    """Length of the server's step over that of the mean update: in the median round, or in that of the longest step, if
    this was half as long as the model."""
    if not np.isfinite(run.movement).any():
        return math.nan
    longest = int(np.nanargmax(run.movement))
    first = run.stride[longest] if run.movement[longest] >= HALF else math.nan
    return float(np.nanmax([run.typical(run.stride), first, 0.0]))


def _below(loss: float | None, bound: float) -> bool:
    """False for a loss that is not finite; metrics files store it as null. An unknown bound says nothing."""
    return math.isnan(bound) or (loss is not None and loss < bound)


def _rounded(value: float) -> str:
    return f"{value:.1g}"
