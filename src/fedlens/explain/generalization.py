"""A model that fits the clients' training images, and does worse on others; classes that it never names."""

from __future__ import annotations

import math

import numpy as np

from fedlens.core.words import count
from fedlens.explain.clients import bad_labels
from fedlens.explain.evidence import ALIKE, KNOWN, UNLIKE, Evidence
from fedlens.explain.privacy import above_floors
from fedlens.tracking.findings import Finding
from fedlens.tracking.intervals import wilson
from fedlens.tracking.summary import best_round, last_with, percent
from fedlens.tracking.wording import majority, measured_on

FITTED = 0.25
"""Of what the model knows of the clients' training images, the part that does not hold on their held-out images, from
which it counts."""

RISEN = 0.05
"""Rise of the held-out loss since its lowest, as a fraction of guessing."""

ENOUGH = 5
"""Fewer images of a class say little about its recall."""

WORTH = 0.05
"""Five points of accuracy."""

RARE = 0.3
"""A class with less than this fraction of an equal share of the training images."""


def overfitting(run: Evidence) -> Finding | None:
    """The model knows the training images much better than held-out ones, and the held-out loss has risen."""
    received, final = run.late(run.before[1:]), run.late(run.held_out)
    gap = (final - received) / (run.guessing - received) if received < (1 - KNOWN) * run.guessing else math.nan
    lowest = float(np.nanmin(run.held_out, initial=math.inf))
    if not gap >= FITTED or not min(final, run.final) - lowest >= RISEN * run.guessing:
        return None
    if run.personal or run.cohort_unlike >= UNLIKE or _statistics(run) or bad_labels(run):
        return None  # training images of a cohort that does not stand for all are not to be compared with all's
    best = run.metrics[int(np.nanargmin(run.held_out))]["round"]
    images = int(run.counts.sum())
    return Finding(
        "overfitting",
        "the model learns its training images by heart",
        f"its loss on them is {received:.2f}, on held-out images {final:.2f}; that was lowest in round {best} "
        f"({lowest:.2f}), and has risen since. There are {count(images, 'training image')}",
        gap / FITTED,
        changes=(
            {"model.name": "efficientnet_lite0", "model.pretrained": "true", "model.freeze": "backbone"},
            {"data.augment": "crop_flip"},
            {"stopping.patience": "5"},
        ),
        curve=run.losses,
    )


def validation_too_small(run: Evidence) -> Finding | None:
    """The model that validation has chosen is better there than on test images, by more than chance explains."""
    best = best_round(run.metrics)
    if best is None or not best.get("test") or run.personal or not max(run.unlike, 2 * run.unlike_test_images) <= ALIKE:
        return None  # validation images are of other clients or classes than test images
    chosen, true = best["validation"], best["test"]
    if any(one.get("accuracy") is None or not one.get("examples") for one in (chosen, true)):
        return None
    gap = chosen["accuracy"] - true["accuracy"]
    error = math.sqrt(
        sum(max(one["accuracy"] * (1 - one["accuracy"]), 0.01) / one["examples"] for one in (chosen, true))
    )
    if not gap > max(3 * error, WORTH):
        return None
    share = float(run.value("data.validation", 0.1))
    return Finding(
        "overfitting to validation",
        "validation promises more than the test images keep",
        f"the model of round {best['round']}, best by validation, has {percent(chosen['accuracy'])} on "
        f"{count(chosen['examples'], 'validation image')} and {percent(true['accuracy'])} on test images",
        gap / max(3 * error, WORTH),
        kind="symptom",
        changes=({"data.validation": f"{min(2 * share, 0.5):g}"},) if share < 0.5 else (),
        curve=run.curve(validation=run.evaluated("validation", "accuracy"), test=run.evaluated("test", "accuracy")),
        axis="accuracy",
    )


def broken_statistics(run: Evidence) -> Finding | None:
    """With the statistics of a batch the model works, with the averaged running statistics it does not."""
    received, final = run.late(run.before[1:]), run.final
    if not _statistics(run):
        return None
    return Finding(
        "broken normalisation statistics",
        "BatchNorm's running statistics do not fit the model",
        f"with the statistics of each batch its loss on the clients' training images is {received:.2f}; with the "
        f"averaged running statistics, on held-out images, {final:.2f}, where guessing has {run.guessing:.2f}",
        (final - received) / (run.guessing - received),
        changes=({"model.norm": "group"},),
        curve=run.losses,
    )


def _statistics(run: Evidence) -> bool:
    """The loss is no better than guessing where running statistics count, and well below where they do not."""
    return run.fits and run.unlearnt and any(name.endswith("running_var") for name in run.tensors())


def never_predicted(run: Evidence) -> Finding | None:
    """Classes that the model hardly ever names right, though it has learnt others."""
    test = last_with(run.metrics, "test")
    recalls = (test or {}).get("recalls") or []
    if not test or not above_floors(run) or run.classes < 3:
        return None
    names, images = run.partition.get("class_names", []), run.partition.get("test") or []
    counts = dict(enumerate(images)) if sum(images) else {}
    few = test.get("examples", 0) / run.classes
    missed = [
        number
        for number, recall in enumerate(recalls)
        if recall is not None and recall <= MISSED and counts.get(number, few) >= ENOUGH
    ]
    if not missed or len(missed) > len(recalls) / 2:
        return None
    total, held = run.counts.sum(), run.counts.sum(axis=0)
    rare = [number for number in missed if total and held[number] < RARE * total / run.classes]
    told = [_class(run, number, names) for number in missed[:3]]
    return Finding(
        "classes never predicted",
        "the model never names some classes",
        f"{'; '.join(told)}{f'; and {len(missed) - 3} more' if len(missed) > 3 else ''}",
        1 + len(missed) / max(run.classes, 1),
        kind="cause" if rare else "symptom",
        advice="More images of these classes help most; balanced accuracy is the figure to watch"
        if rare
        else "They are rare at no client, so see the other findings first, and the confusion matrix in the report",
        curve=run.curve(
            accuracy=run.evaluated("test", "accuracy"), balanced_accuracy=run.evaluated("test", "balanced_accuracy")
        ),
        axis="accuracy",
    )


MISSED = 0.02
"""Recall of a class that counts as never predicted."""


def _class(run: Evidence, number: int, names: list[str]) -> str:
    name = names[number] if number < len(names) else f"class {number}"
    if not run.counts.size:
        return name
    held = run.counts[:, number]
    return f"{name} ({int(held.sum()):,} training images at {count(int((held > 0).sum()), 'client')})"


def nothing_learnt(run: Evidence) -> Finding | None:
    """The last accuracy is not above the floors."""
    test, clients = last_with(run.metrics, "test"), last_with(run.metrics, "clients")
    found, name = (clients, "client accuracy") if run.personal or not test else (test, "test accuracy")
    if not found or found.get("chance") is None or not found.get("examples") or found.get("accuracy") is None:
        return None
    accuracy = found["accuracy_over_examples"] if "accuracy_over_examples" in found else found["accuracy"]
    floor = max(found["chance"], majority(found, run.personal) or 0.0)
    low, _ = wilson(accuracy, found["examples"]) or (0.0, 1.0)
    if low > floor:
        return None
    verdict = "is no better than" if found["accuracy"] <= floor else "cannot be told from"
    change = {"model.name": "efficientnet_lite0", "model.pretrained": "true"}
    pretrained = run.value("model.pretrained") or run.value("model.weights")
    return Finding(
        "nothing learnt",
        "nothing was learnt",
        f"{name} {percent(found['accuracy'])} on {measured_on(found)} {verdict} naming one class without learning "
        f"({percent(floor)})",
        1.0,
        kind="symptom",
        # a frozen backbone only if all parts of the model are shared
        changes=() if pretrained else (change if run.personal else {**change, "model.freeze": "backbone"},),
        rounds=2 * run.metrics[-1]["round"] if pretrained and run.done and not run.private else None,
        curve=run.losses,
    )


def personal_worse(run: Evidence) -> Finding | None:
    """Clients' own models are worse on their images than the shared one."""
    clients = last_with(run.metrics, "clients") or {}
    own, shared = clients.get("accuracy"), clients.get("shared_accuracy")
    if not run.personal or own is None or shared is None or not clients.get("examples"):
        return None
    own, images = clients.get("accuracy_over_examples", own), clients["examples"]
    error = math.sqrt(2 * max(own * (1 - own), 0.01) / images)
    if shared - own < 2 * error:
        return None
    return Finding(
        "personalization does not pay",
        "the clients' own models are worse than the shared one",
        f"{percent(own)} against {percent(shared)} on the same {count(images, 'test image')}",
        (shared - own) / (2 * error),
        changes=({"personalization.name": "none"}, {"personalization.name": "finetune"}),
        curve=run.curve(
            own_models=run.evaluated("clients", "accuracy"), shared_model=run.evaluated("clients", "shared_accuracy")
        ),
        axis="client accuracy",
    )
