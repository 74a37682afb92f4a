"""Measures of a round beyond accuracy, by name: drift, diversity and agreement of updates, privacy, labels, traffic.

drift/…              ‖wᵢ − w‖, distance of a client's trained model from the received one, over the round's clients
diversity/updates    Σ ‖gᵢ‖² / ‖Σ gᵢ‖² of the terms gᵢ = pᵢ Δᵢ that the weighted mean adds up, pᵢ being the clients'
                     shares of the weight: gradient diversity (Δ_S of Yin et al. 2018,
                     https://arxiv.org/abs/1706.05699) of updates. 1 / n when n equal ones are added, 1 when they are
                     at right angles, more when they cancel
cosine/…             how far the updates agree (`transforms.directions`), where tracking.updates asks for it
privacy/epsilon      ε that the run has spent so far (`privacy.release`)
privacy/noise        expected length of a round's noise, divided by the longest that the mean of clipped updates can be;
                     for privacy.mode=example of a local step, and of clipped gradients
privacy/clip         the round's clip, where it is adaptive
labels/…             distance of the round's clients' labels from everybody's (`core.labels`)
modality/clients_…   mean accuracy of the clients with images only, texts only, or both, on their own test rows, where
                     clients differ in this (`federation.coordinator`)
attack/malicious     share of the round's results that come from malicious clients, where there are any
norm/model           length of the model that the round began with, of what clients train (`federation.coordinator`)
traffic/edges_…      bytes between edge aggregators and the server, in each direction (`aggregation.edges`)
traffic/whole_model  bytes that the round's clients would have sent and received with whole models and without
                     compression, where that is more
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.aggregation.norms import l2_norm
from fedlens.core.floors import Population
from fedlens.core.labels import jensen_shannon, total_variation
from fedlens.core.records import ClientEvaluation
from fedlens.core.types import ClientReport
from fedlens.transforms.base import PLAIN_BYTES


@dataclass(frozen=True)
class ClientMeasures:
    """trained: names that travel and are trained; summed: the total is the weighted mean of the reported updates;
    whole_model: bytes of a model of which only a part travels, None where all of it does; malicious: clients that
    attack; protected: nothing is measured of single clients and their images."""

    trained: frozenset[str]
    summed: bool
    whole_model: int | None = None
    malicious: frozenset[str] = frozenset()
    protected: bool = False

    def __call__(
        self, total: AggregatedUpdate, reports: Sequence[ClientReport], population: Population
    ) -> dict[str, float]:
        """The measures of the round with these `reports` and this `total`."""
        if self.protected:
            return {**total.measures, **self._whole(reports)}
        with np.errstate(over="ignore", invalid="ignore"):  # norms of diverging updates
            return self._measured(total, reports, population)

    def _measured(
        self, total: AggregatedUpdate, reports: Sequence[ClientReport], population: Population
    ) -> dict[str, float]:
        length = l2_norm(total.delta[name] for name in sorted(self.trained & total.delta.keys()))
        return {
            **drift(reports),
            **(diversity(reports, length) if self.summed else {}),
            **total.measures,
            **label_distances(reports, population),
            **({"attack/malicious": self._attacked(reports)} if self.malicious else {}),
            **self._whole(reports),
        }

    def _whole(self, reports: Sequence[ClientReport]) -> dict[str, float]:
        """Bytes of whole models and of updates without encoding; nothing where these travelled."""
        plain = sum(report.metrics[PLAIN_BYTES].total for report in reports if PLAIN_BYTES in report.metrics)
        whole = max(plain, 2.0 * (self.whole_model or 0) * len(reports))
        return {"traffic/whole_model": whole} if whole else {}

    def _attacked(self, reports: Sequence[ClientReport]) -> float:
        return sum(report.client in self.malicious for report in reports) / len(reports)


def accuracy_of_groups(clients: Sequence[ClientEvaluation], groups: Mapping[str, str]) -> dict[str, float]:
    """Mean accuracy of the counted clients of each group; nothing where all are of one. groups: client → group."""
    found: dict[str, list[float]] = {}
    for one in clients:
        if one.counted and one.client in groups:
            found.setdefault(groups[one.client], []).append(one.accuracy)
    if len(set(groups.values())) < 2:
        return {}
    return {f"modality/clients_{group}": fmean(accuracies) for group, accuracies in sorted(found.items())}


def drift(reports: Sequence[ClientReport]) -> dict[str, float]:
    """Mean, standard deviation and maximum over the clients."""
    found = np.array([report.metrics["drift"].value for report in reports if "drift" in report.metrics])
    if not len(found):
        return {}
    return {"drift/mean": float(found.mean()), "drift/deviation": float(found.std()), "drift/max": float(found.max())}


def diversity(reports: Sequence[ClientReport], length: float) -> dict[str, float]:
    """`length`: of the weighted mean of the updates."""
    weights = np.array([report.weight for report in reports])
    norms = np.array([report.metrics["update_norm"].value for report in reports])
    terms = weights / weights.sum() * norms
    return {"diversity/updates": float((terms**2).sum()) / length**2} if length else {}


def label_distances(reports: Sequence[ClientReport], population: Population) -> dict[str, float]:
    """Means over the round's clients, and the distance of all of them together."""
    held, everybody = population.held, population.totals
    cohort = np.array([held[report.client] for report in reports if report.client in held], np.int64)
    if everybody is None or not len(cohort):
        return {}
    return {
        "labels/total_variation": float(total_variation(cohort, everybody).mean()),
        "labels/jensen_shannon": float(jensen_shannon(cohort, everybody).mean()),
        "labels/cohort": float(total_variation(cohort.sum(axis=0), everybody)),
    }
