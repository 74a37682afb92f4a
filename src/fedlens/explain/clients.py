"""The clients of a round: how many, how fast, who fails, and who hurts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from fedlens.core.words import count
from fedlens.explain.evidence import FITS, LOST, UNLIKE, Evidence, mean, of
from fedlens.explain.steps import DIVERGED
from fedlens.tracking.findings import Finding
from fedlens.tracking.summary import contributions

SWINGS = 3
"""Accuracy that changes between evaluations by so many times what the number of images explains."""

LATE = 3
"""A round that takes so many times as long as its median client needs is waiting most of its time."""

FAILED = 0.2
"""Share of the tasks that fail, from which what is learnt rests on few clients."""

OUTLYING = 5
"""Length of a client's update over the median of its rounds'. Images differ by less: lengths grow at most with the
number of steps."""

TRIED = 3
"""A client's contribution is a mean over so many rounds at least: one round may be bad luck."""

HARM = 0.01
"""Accuracy that a round's model gains without a client, from which that counts, where it is not known on how many
images it was measured; else it is a standard error of the accuracy on these."""

BAD = 2
"""A client's loss over the median of the others', where it is above guessing: the shared model does worse on its images
than one that knows nothing, and well on the others'."""


def small_cohort(run: Evidence) -> Finding | None:
    """The round's clients together do not stand for all, and the model goes up and down with them."""
    unlike, swings = run.cohort_unlike, _swings(run)
    if len(run.counts) < 3 or not unlike >= UNLIKE or not (swings >= SWINGS or run.unlearnt):
        return None
    clients, cohort = len(run.counts), run.typical(run.cohort)
    more = min(max(3 * cohort, 4), clients)
    return Finding(
        "cohort too small",
        "a round's clients do not stand for all of them",
        f"the labels of a round's {count(round(cohort), 'client')} are {unlike:.0%} of the way from everybody's to a "
        f"single class, and {_seen(swings)}",
        unlike / UNLIKE * 2,
        changes=(
            {"federated.fraction_fit": f"{min(more / clients, 1):.2g}"},
            {"strategy.name": "fedavgm"},
        ),
        curve=run.curve(
            test_accuracy=run.evaluated("test", "accuracy"), validation=run.evaluated("validation", "accuracy")
        ),
        axis="accuracy",
    )


def _seen(swings: float) -> str:
    if swings >= SWINGS:
        return f"the accuracy changes between evaluations {swings:.1f} times as much as the number of images explains"
    return "the model of one round serves the clients of the next badly"


def _swings(run: Evidence) -> float:
    """Typical change of the accuracy between evaluations in the second half, over that of a binomial's difference."""
    part = "validation" if np.isfinite(run.evaluated("validation", "accuracy")).sum() > 2 else "test"
    accuracy, images = run.evaluated(part, "accuracy"), mean(run.evaluated(part, "examples"))
    told = accuracy[np.isfinite(accuracy)]
    late = told[len(told) // 2 :]
    if len(late) < 3 or not images > 0:
        return math.nan
    middle = float(np.clip(late.mean(), 0.01, 0.99))
    explained = math.sqrt(2 * middle * (1 - middle) / images)
    return float(np.sqrt(np.mean(np.diff(late) ** 2))) / explained


def stragglers(run: Evidence) -> Finding | None:
    """Rounds wait for a slow client most of their time."""
    if run.value("schedule.name", "sync") != "sync":
        return None
    name = "virtual_seconds" if _tells(run, "virtual_seconds") else "seconds"
    seconds = [of(line, name) for line in run.metrics]
    pairs = [(max(one), median(one)) for one in seconds if len(one) >= 3]
    if not pairs or not (name == "virtual_seconds" or run.remote):
        return None  # clients of one machine wait for its cores, not for each other
    slowest, middle = sum(most for most, _ in pairs), sum(half for _, half in pairs)
    if not slowest >= LATE * middle > 0:
        return None
    return Finding(
        "stragglers",
        "rounds wait for their slowest clients",
        f"the slowest client of a round takes {slowest / middle:.1f} times as long as its median one: "
        f"{slowest - middle:,.0f} of {slowest:,.0f} {name.replace('_', ' ')} are spent waiting",
        slowest / middle / LATE,
        kind="time",
        changes=({"federated.over_selection": "0.3"}, {"schedule.name": "fedbuff"}),
        curve=run.curve(
            slowest=run.series(lambda line: max(of(line, name), default=None)),
            median=run.told(name),
        ),
        axis=name.replace("_", " "),
    )


def failing(run: Evidence) -> Finding | None:
    """Many tasks fail, for other reasons than divergence."""
    failures = [one for line in run.metrics for one in line["failures"] if not one["reason"].startswith(DIVERGED)]
    tasks = len(failures) + sum(len(line["cohort"]) for line in run.metrics)
    if not tasks or len(failures) < FAILED * tasks:
        return None
    (client, times), (reason, _) = (
        Counter(one[key] for one in failures).most_common(1)[0] for key in ("client", "reason")
    )
    return Finding(
        "clients fail",
        "many clients' results never count",
        f"{len(failures)} of {count(tasks, 'task')} failed, most often {client} ({count(times, 'time')}); the "
        f"commonest reason: {reason}",
        len(failures) / tasks / FAILED,
        changes=({"federated.over_selection": "0.3"},) if run.value("clock.name", "none") != "none" else (),
        advice="fedlens doctor at the sites finds what is missing there" if run.remote else "",
        curve=run.curve(failed=run.series(lambda line: len(line["failures"])), results=run.cohort),
        axis="clients",
    )


def bad_labels(run: Evidence) -> Finding | None:
    """The shared model is worse than guessing on some clients' training images, and good on the others'."""
    losses = _by_client(run, "loss_before")
    if len(losses) < 3 or run.personal:
        return None
    middle = median(losses.values())
    bad = {name: loss for name, loss in losses.items() if loss >= max(run.guessing, BAD * middle)}
    if not bad or middle > FITS * run.guessing or len(bad) > len(losses) / 3:
        return None
    return Finding(
        "bad labels",
        "some clients' labels contradict those of all others",
        f"the model's loss on the training images of {_named(bad)} is above guessing ({run.guessing:.2f}); that of the "
        f"median client is {middle:.2f}",
        min(bad.values()) / max(run.guessing, BAD * middle) * 2,
        advice=f"Look at the images and labels of {', '.join(list(bad)[:3])}, or leave them out",
        changes=({"aggregation.name": "median"},),
        curve=run.curve(
            {name: run.series(partial(_one, client=name, name="loss_before")) for name in list(bad)[:5]},
            median_client=run.before,
        ),
    )


def hurting(run: Evidence) -> Finding | None:
    """The shared model would be better without some clients' updates: leave-one-out, where the run measured it."""
    told = {name: np.array(values) for name, values in contributions(run.metrics).items() if len(values) >= TRIED}
    means = {name: float(values.mean()) for name, values in told.items()}
    if len(means) < 3:
        return None
    usual = median(map(abs, means.values()))
    harm = max(_chance_of_images(run), usual)
    found = {
        name: -means[name]
        for name, values in told.items()
        if -means[name] >= max(harm, 2 * float(values.std(ddof=1)) / math.sqrt(len(values)))
    }
    if not found or len(found) > len(means) / 3:
        return None
    worst = sorted(found, key=lambda name: -found[name])
    return Finding(
        "clients that hurt",
        "the model is better without some clients' updates",
        f"without them a round's model is better on the validation images, in points of accuracy by: "
        f"{_named({name: 100 * value for name, value in found.items()})}; the median client changes it by "
        f"{100 * usual:.2g}",
        max(found.values()) / harm,
        advice=f"Look at the images and labels of {', '.join(worst[:3])}, or leave them out",
        changes=({"aggregation.name": "median"}, {"aggregation.name": "norm_bound"}),
        curve=run.curve(
            {name: run.series(partial(_contribution, client=name)) for name in worst[:5]},
            median_client=run.series(_usual_contribution),
        ),
        axis="accuracy gained by the update",
    )


def _chance_of_images(run: Evidence) -> float:
    """√(p (1 − p) / n): by so much the accuracy p on n validation images changes with other images."""
    accuracy, images = (run.late(run.evaluated("validation", key)) for key in ("accuracy", "examples"))
    return math.sqrt(accuracy * (1 - accuracy) / images) if images > 0 else HARM


def _contribution(line: Mapping[str, Any], *, client: str) -> float | None:
    return line.get("contributions", {}).get(client)  # type: ignore[no-any-return]


def _usual_contribution(line: Mapping[str, Any]) -> float | None:
    told = [value for value in line.get("contributions", {}).values() if value is not None]
    return median(told) if told else None


def attacked(run: Evidence) -> Finding | None:
    """Malicious clients of a simulation, and a mean that does what they want."""
    name, share = run.value("attack.name", "none"), mean(run.measure("attack/malicious"))
    if name == "none" or not share > 0 or run.value("aggregation.name", "mean") != "mean":
        return None
    if not run.unlearnt and not run.lost >= LOST:
        return None
    return Finding(
        "attack without defence",
        "malicious clients decide what is learnt",
        f"{share:.0%} of the results are of clients that attack ({name}), and they are averaged with the others",
        1 + 10 * share,
        changes=({"aggregation.name": "median"}, {"aggregation.name": "norm_bound"}),
        curve=run.curve(malicious=run.measure("attack/malicious")),
        axis="share of the results",
    )


def outlying_updates(run: Evidence) -> Finding | None:
    """Some clients' updates are always many times longer than the others'."""
    ratios: dict[str, list[float]] = {}
    for line in run.metrics:
        told = of(line, "update_norm")
        middle = median(told) if len(told) >= 3 else 0.0
        for one in line["cohort"] if middle else []:
            if (length := one["metrics"].get("update_norm")) is not None:
                ratios.setdefault(one["client"], []).append(length / middle)
    long = {name: median(found) for name, found in ratios.items() if median(found) >= OUTLYING}
    if not long or len(long) > len(ratios) / 3:
        return None
    return Finding(
        "outlying updates",
        "some clients' updates outweigh all others'",
        f"over the median of their rounds, the lengths are: {_named(long)}",
        max(long.values()) / OUTLYING,
        changes=({"aggregation.name": "norm_bound"}, {"aggregation.name": "median"}),
        curve=run.curve(
            longest=run.series(lambda line: max(of(line, "update_norm"), default=None)),
            median=run.told("update_norm"),
        ),
        axis="L2 norm of the update",
    )


def _by_client(run: Evidence, name: str) -> dict[str, float]:
    """The mean of a metric of each client over the last half of the rounds."""
    told: dict[str, list[float]] = {}
    for line in run.metrics[len(run.metrics) // 2 :]:
        for one in line["cohort"]:
            if (value := one["metrics"].get(name)) is not None:
                told.setdefault(one["client"], []).append(value)
    return {client: sum(values) / len(values) for client, values in told.items()}


def _one(line: Mapping[str, Any], *, client: str, name: str) -> float | None:
    return next((one["metrics"].get(name) for one in line["cohort"] if one["client"] == client), None)


def _tells(run: Evidence, name: str) -> bool:
    return any(name in one["metrics"] for line in run.metrics for one in line["cohort"])


def _named(values: Mapping[str, float]) -> str:
    """ "client2 (4.1), client7 (3.9) and 2 more"."""
    worst = sorted(values.items(), key=lambda one: -one[1])
    told = ", ".join(f"{name} ({value:.3g})" for name, value in worst[:3])
    return f"{told} and {len(worst) - 3} more" if len(worst) > 3 else told
