"""What the files of a run say, as series over its rounds: what the checks look at.

Losses are in nats. A model that gives every class the same probability has the loss ln C, here called guessing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlens.core.labels import total_variation
from fedlens.tracking.findings import Curve
from fedlens.tracking.summary import is_personal, last_with

Series = NDArray[np.float64]
"""(rounds,) a value for each round; NaN where it has none."""


@dataclass(frozen=True)
class Evidence:
    """config, metrics, partition: as the files of the run have them; tensors: names of the tensors of its last model,
    read when they are asked for; remote: its clients are sites."""

    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    partition: Mapping[str, Any]
    tensors: Callable[[], Collection[str]] = tuple
    remote: bool = False

    # -- the configuration ---------------------------------------------------------------------------------------------

    def value(self, key: str, default: Any = None) -> Any:
        """Of a key of the configuration, such as optimizer.lr."""
        section: Any = self.config
        for part in key.split("."):
            section = section.get(part) if isinstance(section, Mapping) else None
        return default if section is None else section

    @cached_property
    def personal(self) -> bool:
        return is_personal(self.config)

    @cached_property
    def private(self) -> bool:
        """Noise is added to what clients send."""
        return bool(self.value("privacy.mode", "none") != "none")

    @cached_property
    def done(self) -> bool:
        """All planned rounds are done."""
        return bool(self.metrics) and self.metrics[-1]["round"] == self.value("federated.num_rounds")

    # -- series --------------------------------------------------------------------------------------------------------

    def series(self, of: Callable[[Mapping[str, Any]], float | None]) -> Series:
        """`of` each round's line; NaN where it gives None."""
        return np.array([np.nan if (value := of(line)) is None else value for line in self.metrics], np.float64)

    def measure(self, name: str) -> Series:
        return self.series(lambda line: line.get("measures", {}).get(name))

    def evaluated(self, part: str, key: str) -> Series:
        """part: test, validation or clients."""
        return self.series(lambda line: (line.get(part) or {}).get(key))

    def told(self, name: str) -> Series:
        """The median of a metric over each round's clients: a few odd ones do not move it."""
        return self.series(lambda line: median(told) if (told := of(line, name)) else None)

    @cached_property
    def cohort(self) -> Series:
        return self.series(lambda line: len(line["cohort"]))

    @cached_property
    def before(self) -> Series:
        """Loss of the model that the round's clients received, on their training images."""
        return self.told("loss_before")

    @cached_property
    def after(self) -> Series:
        """Loss of the round's clients' models at the end of their training, on their training images."""
        return self.told("loss_after")

    @cached_property
    def held_out(self) -> Series:
        """Loss on the validation images; without any, on the test images."""
        validation = self.evaluated("validation", "loss")
        return self.evaluated("test", "loss") if np.isnan(validation).all() else validation

    @cached_property
    def agreement(self) -> Series:
        """The mean cosine of two clients' updates, from gradient diversity Δ_S = Σ ‖gᵢ‖² / ‖Σ gᵢ‖²: with n updates of
        like length, 1/Δ_S = 1 + (n − 1) cos. In [−1/(n − 1), 1]."""
        diversity, clients = self.measure("diversity/updates"), self.cohort
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(clients > 1, (1 / diversity - 1) / (clients - 1), np.nan)

    @cached_property
    def movement(self) -> Series:
        """Length of the server's step, divided by that of the model: of what clients train."""
        length = self.measure("norm/model")
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(length > 0, self.series(lambda line: line.get("update_norm")) / length, np.nan)

    @cached_property
    def stride(self) -> Series:
        """Length of the server's step, divided by that of the mean of the clients' updates; NaN for strategies that
        send something else than the difference of models."""
        if self.value("strategy.name") in SCALED:
            return np.full(len(self.metrics), np.nan)
        mean = self.series(_mean_update)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(mean > 0, self.series(lambda line: line.get("update_norm")) / mean, np.nan)

    # -- figures -------------------------------------------------------------------------------------------------------

    @cached_property
    def classes(self) -> int:
        """0: not known."""
        parts = (last_with(self.metrics, part) or {} for part in ("test", "validation", "clients"))
        chance = next((part["chance"] for part in parts if part.get("chance")), None)
        return round(1 / chance) if chance else len(self.partition.get("class_names", ()))

    @cached_property
    def guessing(self) -> float:
        """ln C; NaN if the number of classes is not known."""
        return math.log(self.classes) if self.classes > 1 else math.nan

    def late(self, series: Series) -> float:
        """The mean over the last third of the rounds, three at least; NaN without values."""
        return mean(series[-max(3, len(series) // 3) :])

    def typical(self, series: Series) -> float:
        """The median of the values that are there; NaN without any."""
        finite = series[np.isfinite(series)]
        return float(np.median(finite)) if finite.size else math.nan

    @cached_property
    def told_losses(self) -> bool:
        """Clients tell their training losses; privacy has them keep these to themselves."""
        told = [one["metrics"] for line in self.metrics[-1:] for one in line["cohort"] if one.get("metrics")]
        private = any("privacy/epsilon" in line.get("measures", {}) for line in self.metrics[-1:])
        return not private and (not told or any("loss" in one for one in told))

    @cached_property
    def final(self) -> float:
        """The last loss on held-out images; NaN where none was measured."""
        finite = self.held_out[np.isfinite(self.held_out)]
        return float(finite[-1]) if finite.size else math.nan

    @cached_property
    def learnt(self) -> bool:
        """The last model is clearly better than guessing."""
        return self.final < (1 - KNOWN) * self.guessing

    @cached_property
    def unlearnt(self) -> bool:
        """The last model is known to be no better than guessing, or hardly. Not the opposite of `learnt`: a run may not
        have been evaluated."""
        return self.final >= (1 - KNOWN) * self.guessing

    @cached_property
    def gained(self) -> float:
        """Of all that the loss on held-out images has fallen, from guessing or from where it began, the part that the
        last third of the rounds has brought; NaN where it has not fallen, or was evaluated once."""
        told = self.held_out[np.isfinite(self.held_out)]
        if len(told) < 2:
            return math.nan
        start = told[0] if math.isnan(self.guessing) else max(self.guessing, told[0])
        earlier = told[-1 - math.ceil(len(told) / 3)]
        fallen = start - told[-1]
        return float((earlier - told[-1]) / fallen) if fallen > 0 else math.nan

    @cached_property
    def fits(self) -> bool:
        """The received model is of use on the clients' training images, with the statistics of each batch."""
        return self.late(self.before[1:]) < FITS * self.guessing

    @cached_property
    def unfinished(self) -> bool:
        """The loss on held-out images still falls, or has hardly begun to."""
        return self.gained > GAINED or self.unlearnt

    @cached_property
    def _pairs(self) -> tuple[Series, Series]:
        """(loss at the end of local training, loss of the next round's received model), of the rounds in which clients'
        models have learnt something. In asynchronous ones clients begin with older models, so there are none."""
        trained, received = self.after[:-1], self.before[1:]
        if self.value("schedule.name", "sync") != "sync":
            return trained[:0], received[:0]
        known = np.isfinite(received) & (self.guessing - trained > KNOWN * self.guessing)
        return trained[known], received[known]

    @cached_property
    def kept(self) -> tuple[float, float]:
        """What clients' models had learnt, and what the server's model has of it: medians over the rounds of the losses
        at the end of local training and of the next round's received model. NaN where nobody has learnt anything."""
        trained, received = self._pairs
        return self.typical(trained), self.typical(received)

    @cached_property
    def lost(self) -> float:
        """Of what clients' models know after their training, the part that the server's model does not have: the median
        over the rounds of (received − trained) / (guessing − trained). NaN where nobody has learnt anything."""
        trained, received = self._pairs
        return self.typical((received - trained) / (self.guessing - trained))

    @cached_property
    def _most_unlike(self) -> float:
        """The total variation of a client from everybody, if every client had one class: 1 − Σ p². NaN if that is 0, or
        not known."""
        held = self.counts.sum(axis=0)
        largest = 1 - float(((held / held.sum()) ** 2).sum()) if held.sum() else 0.0
        return largest or math.nan

    @cached_property
    def unlike(self) -> float:
        """How unlike the clients' labels are: their mean total variation from everybody's, divided by what it would be
        if every client had one class. In [0, 1]; NaN if not known."""
        held = self.counts[self.counts.sum(axis=1) > 0]
        return float(total_variation(held, held.sum(axis=0)).mean()) / self._most_unlike if held.size else math.nan

    @cached_property
    def cohort_unlike(self) -> float:
        """As `unlike`, of the labels of a round's clients together; the median over the rounds."""
        return self.typical(self.measure("labels/cohort")) / self._most_unlike

    @cached_property
    def unlike_test_images(self) -> float:
        """Total variation of the clients' labels together from those of the test images; NaN if not known."""
        held, test = self.counts.sum(axis=0), np.array(self.partition.get("test", ()), np.int64)
        return float(total_variation(held, test)) if held.sum() and test.sum() else math.nan

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(clients, classes) training images, of the clients that tell them."""
        held = [splits["train"] for splits in self.partition.get("clients", {}).values() if splits.get("train")]
        return np.array(held, np.int64) if held else np.zeros((0, 0), np.int64)

    # -- for people ----------------------------------------------------------------------------------------------------

    def curve(self, clients: Mapping[str, Series] | None = None, /, **named: Series) -> Curve:
        """Series by name, as (round, value): those of `clients` by their names, the others by words in which _ stands
        for a space."""
        series_by_name = {**(clients or {}), **{name.replace("_", " "): series for name, series in named.items()}}
        return {
            name: [
                (line["round"], None if math.isnan(value) else float(value))
                for line, value in zip(self.metrics, series, strict=True)
            ]
            for name, series in series_by_name.items()
            if not np.isnan(series).all()
        }

    @property
    def losses(self) -> Curve:
        return self.curve(received_model=self.before, after_local_training=self.after, held_out_images=self.held_out)


LOST = 0.25
"""Of what clients' models know after their training, the part that is lost in the server's model, from which it
counts. With equal clients nothing is lost; averaging even gains. With like labels half of it counts: these do not
explain it."""

GAINED = 0.1
"""Of all that the held-out loss has fallen, the part that the last third of the rounds has brought, from which more
rounds would bring more. An even fall brings a third of it, one that has ended nothing."""

FITS = 0.75
"""Loss over guessing, up to which a model is of use."""

SKEWED = 0.5
"""Labels half way from equal shares of the classes to a single class at each client."""

ALIKE = 0.2
"""Labels so alike that they do not explain what is lost."""

UNLIKE = 0.25
"""Labels of a round's clients together, a quarter of the way from everybody's to a single class: they do not stand for
all."""

SCALED = ("fednova", "qfedavg")
"""Strategies whose updates are scaled before they are sent."""

KNOWN = 0.1
"""A model has learnt something if its loss is below guessing by more than this fraction."""


def mean(values: Series) -> float:
    """Of those that are finite; NaN if none is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def of(line: Mapping[str, Any], name: str) -> list[float]:
    """A metric of a round's clients, of those that tell it."""
    return [one["metrics"][name] for one in line["cohort"] if one["metrics"].get(name) is not None]


def _mean_update(line: Mapping[str, Any]) -> float | None:
    """‖Σ gᵢ‖ from Δ_S and the lengths that clients tell."""
    diversity, cohort = line.get("measures", {}).get("diversity/updates"), line["cohort"]
    weight = sum(one.get("weight") or 0.0 for one in cohort)
    if not diversity or not weight:
        return None
    terms = [(one.get("weight") or 0.0) / weight * (one["metrics"].get("update_norm") or 0.0) for one in cohort]
    return math.sqrt(sum(term**2 for term in terms) / diversity)
