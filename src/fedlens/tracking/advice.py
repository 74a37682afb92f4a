"""Advice after a run with poor results: one line with a command, or nothing."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlens.core.words import count
from fedlens.tracking.intervals import wilson
from fedlens.tracking.summary import is_personal, last_with, percent
from fedlens.tracking.wording import majority, measured_on
from fedlens.training.optimizers.base import optimizers

DIVERGED = "training diverged"
"""Start of the failure reason of a client whose update or loss is not finite (`training.client`)."""

STILL_FALLING = 0.99
"""The validation loss counts as falling if it is below this fraction of the previous one."""

LOUD = 3
"""Noise of differential privacy so many times as long as the mean update leaves little of it."""

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Commands:
    """again: the command that started the run, "" if a Python program did so with its own objects; resume: the command
    that resumes it, with its folder."""

    again: str
    resume: str

    def changed(self, **overrides: str) -> str:
        """`again` with other values; in the keyword names, __ stands for the dot. Keys of a replaced model are
        dropped."""
        values = {key.replace("__", "."): value for key, value in overrides.items()}
        gone = ("model.",) if "model.name" in values else tuple(f"{key}=" for key in values)
        kept = [word for word in shlex.split(self.again) if not word.startswith(gone)]
        return shlex.join([*kept, *(f"{key}={value}" for key, value in values.items())])


def advice(metrics: Metrics, config: Mapping[str, Any], commands: Commands) -> str | None:
    """The first that applies: clients diverge, the accuracy is not above the floors, the validation loss still falls.
    None: none of these."""
    if not metrics:
        return None
    return (
        _drowned_in_noise(metrics, config)
        or _too_high_a_rate(metrics, config, commands)
        or _nothing_learnt(metrics, config, commands)
        or _unfinished(metrics, config, commands)
    )


def _drowned_in_noise(metrics: Metrics, config: Mapping[str, Any]) -> str | None:
    """The noise of differential privacy is far longer than what it is added to, and nothing was learnt."""
    test, noise = last_with(metrics, "test"), metrics[-1].get("measures", {}).get("privacy/noise")
    if not test or noise is None or noise < LOUD:
        return None
    low, _ = wilson(test["accuracy"], test["examples"]) or (0.0, 1.0)
    if low > max(test["chance"] or 0.0, test["majority"] or 0.0):
        return None
    what, more = "round is {} times as long as the mean of clipped updates", "more clients a round"
    if config["privacy"]["mode"] == "example":
        what, more = "step is {} times as long as the mean of clipped gradients", "a larger federated.batch_size"
    return (
        f"the noise of each {what.format(f'{noise:.3g}')} can be, so nothing was learnt. Use {more} (the noise of the "
        "mean falls with their number), a smaller model (model.name=lenet), a smaller part of it (model.freeze), or "
        "less noise"
    )


def _too_high_a_rate(metrics: Metrics, config: Mapping[str, Any], commands: Commands) -> str | None:
    lost = sum(one["reason"].startswith(DIVERGED) for line in metrics for one in line["failures"])
    tasks = sum(len(line["cohort"]) + len(line["failures"]) for line in metrics)
    if lost:
        problem = f"{lost} of {count(tasks, 'client update')} diverged"
    elif _losses_stay(metrics[-1]):
        return None
    elif (guessing := _loss_of_guessing(metrics)) and not _below(metrics[-1]["train_loss"], 3 * guessing):
        problem = f"the training loss ended far above that of guessing ({guessing:.2f})"
    else:
        return None
    optimizer = config.get("optimizer", {})
    lr = optimizer.get("lr", 1.0)
    smaller = optimizers.get(optimizer.get("name", "sgd")).factory.usual_lr if lr > 1 else lr / 10
    return f"{problem}: the learning rate ({lr:g}) is too high. Try: {commands.changed(optimizer__lr=f'{smaller:g}')}"


def _loss_of_guessing(metrics: Metrics) -> float | None:
    """ln C: the cross-entropy of equal probabilities for all C classes."""
    found = last_with(metrics, "test") or last_with(metrics, "validation") or last_with(metrics, "clients") or {}
    return math.log(1 / found["chance"]) if found.get("chance") else None


def _losses_stay(line: Mapping[str, Any]) -> bool:
    """Privacy has the clients keep their losses to themselves."""
    told = [client["metrics"] for client in line["cohort"] if client.get("metrics")]
    return "privacy/epsilon" in line.get("measures", {}) or (bool(told) and not any("loss" in one for one in told))


def _below(loss: float | None, bound: float) -> bool:
    """False for a loss that is not finite; metrics files store it as null."""
    return loss is not None and loss < bound


def _nothing_learnt(metrics: Metrics, config: Mapping[str, Any], commands: Commands) -> str | None:
    personal = is_personal(config)
    test, clients = last_with(metrics, "test"), last_with(metrics, "clients")
    found, name = (clients, "client accuracy") if personal or not test else (test, "test accuracy")
    if not found or found.get("chance") is None or not found.get("examples"):
        return None
    accuracy = found["accuracy_over_examples"] if "accuracy_over_examples" in found else found["accuracy"]
    floor = max(found["chance"], majority(found, personal) or 0.0)
    low, _ = wilson(accuracy, found["examples"]) or (0.0, 1.0)
    if low > floor:
        return None
    verdict = "is no better than" if found["accuracy"] <= floor else "cannot be told from"
    return (
        f"{name} {percent(found['accuracy'])} on {measured_on(found)} {verdict} naming one class without learning "
        f"({percent(floor)}). Try: {_more_learning(metrics, config, commands)}"
    )


def _more_learning(metrics: Metrics, config: Mapping[str, Any], commands: Commands) -> str:
    """Pretrained weights, with a frozen backbone if all parts of the model are shared; else more rounds."""
    if config.get("model", {}).get("pretrained") or config.get("model", {}).get("weights"):
        return _train_on(metrics, commands)
    frozen = {} if is_personal(config) else {"model__freeze": "backbone"}
    return commands.changed(model__name="efficientnet_lite0", model__pretrained="true", **frozen)


def _unfinished(metrics: Metrics, config: Mapping[str, Any], commands: Commands) -> str | None:
    losses = [line["validation"]["loss"] for line in metrics if line["validation"]]
    planned = config.get("federated", {}).get("num_rounds")
    if metrics[-1]["round"] != planned or len(losses) < 2 or any(loss is None for loss in losses[-2:]):
        return None
    if losses[-1] > STILL_FALLING * losses[-2] or losses[-1] > min(loss for loss in losses if loss is not None):
        return None
    return f"the validation loss was still falling in the last round. Go on with: {_train_on(metrics, commands)}"


def _train_on(metrics: Metrics, commands: Commands) -> str:
    return f"{commands.resume} federated.num_rounds={2 * metrics[-1]['round']}"
