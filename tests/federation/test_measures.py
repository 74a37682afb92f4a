"""Numbers of a round's clients, by hand."""

import numpy as np
import pytest
import torch

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.core.floors import Population
from fedlens.core.labels import jensen_shannon, total_variation
from fedlens.core.records import ClientEvaluation
from fedlens.core.types import ClientInfo, ClientReport, MeanMetric
from fedlens.federation.measures import ClientMeasures, accuracy_of_groups


def client(name: str, *counts: int) -> ClientInfo:
    return ClientInfo(name, 0, {"train": counts, "val": (0, 0), "test": (0, 0)})


def report(name: str, weight: float, norm: float, drift: float | None = None) -> ClientReport:
    metrics = {"update_norm": MeanMetric(norm, 1), "drift": MeanMetric(norm if drift is None else drift, 1)}
    return ClientReport(name, weight, metrics)


def total(*delta: float) -> AggregatedUpdate:
    return AggregatedUpdate({"w": torch.tensor(delta), "statistics": torch.tensor([1e6])}, {}, 1.0, 2)


def measured(
    whole: AggregatedUpdate, *reports: ClientReport, summed: bool = True, whole_model: int | None = None, clients=()
):
    return ClientMeasures(frozenset({"w"}), summed, whole_model)(whole, reports, Population(clients))


def test_drift_over_clients() -> None:
    found = measured(total(1.0, 0.0), report("a", 1, 1.0), report("b", 1, 9.0, drift=3.0))
    assert (found["drift/mean"], found["drift/deviation"], found["drift/max"]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("updates", "diversity"),
    [
        ([(1.0, 0.0), (1.0, 0.0)], 0.5),  # n equal ones: 1 / n
        ([(3.0, 0.0), (0.0, 4.0)], 1.0),  # right angles: (9 + 16) / 25
        ([(3.0, 0.0), (-1.0, 0.0)], 2.5),  # cancelling: (9 + 1) / 2²
    ],
)
def test_gradient_diversity(updates, diversity) -> None:
    rows = torch.tensor(updates)
    reports = [report(str(k), 5, float(row.norm())) for k, row in enumerate(rows)]
    assert measured(total(*rows.mean(0).tolist()), *reports)["diversity/updates"] == pytest.approx(diversity)


def test_the_share_of_malicious_answers_whatever_is_evaluated() -> None:
    reports = [report(name, 1, 1.0) for name in "abcd"]
    attacked = ClientMeasures(frozenset({"w"}), True, malicious=frozenset({"b", "z"}))
    assert attacked(total(1.0), reports, Population(()))["attack/malicious"] == 0.25
    assert "attack/malicious" not in measured(total(1.0), *reports)


def test_diversity_is_of_what_is_added_up() -> None:
    """Weights 3 and 1: the terms are (0.75 · 4, 0) and (0, 0.25 · 4), at right angles."""
    found = measured(total(3.0, 1.0), report("a", 3, 4.0), report("b", 1, 4.0))
    assert found["diversity/updates"] == pytest.approx(1.0)


def test_diversity_belongs_to_the_mean() -> None:
    assert "diversity/updates" not in measured(total(1.0), report("a", 1, 1.0), summed=False)
    assert "diversity/updates" not in measured(total(0.0), report("a", 1, 1.0))


def test_label_distances_by_hand() -> None:
    counts = np.array([[10, 0], [5, 5], [0, 0]])
    everybody = np.array([20, 20])
    assert total_variation(counts, everybody)[:2] == pytest.approx([0.5, 0.0])
    # p = (1, 0), q = (½, ½), m = (¾, ¼): ½ log₂ 4/3 + ½ (½ log₂ 2/3 + ½ log₂ 2) = 0.3113
    assert jensen_shannon(counts, everybody)[:2] == pytest.approx([0.311278, 0.0], abs=1e-6)
    assert np.isnan(total_variation(counts, everybody)[2])
    assert np.isnan(jensen_shannon(counts, everybody)[2])
    unaggregated = np.array([0, 7])
    assert total_variation(counts[0], unaggregated) == jensen_shannon(counts[0], unaggregated) == 1.0


def test_the_rounds_clients_against_everybody() -> None:
    clients = [client("a", 10, 0), client("b", 0, 10), client("c", 20, 20), client("empty", 0, 0)]
    found = measured(total(1.0), report("a", 1, 1.0), report("c", 1, 1.0), report("gone", 1, 1.0), clients=clients)
    assert found["labels/total_variation"] == pytest.approx((0.5 + 0.0) / 2)
    assert found["labels/jensen_shannon"] == pytest.approx(0.311278 / 2, abs=1e-6)
    assert found["labels/cohort"] == pytest.approx(0.1)  # (0.6, 0.4) together


def test_what_a_whole_model_would_have_moved() -> None:
    assert "traffic/whole_model" not in measured(total(1.0), report("a", 1, 1.0))
    found = measured(total(1.0), report("a", 1, 1.0), report("b", 1, 1.0), whole_model=1000)
    assert found["traffic/whole_model"] == 4000  # two clients, both ways


def test_accuracy_of_clients_by_what_they_have() -> None:
    def at(name: str, accuracy: float, **rest: bool) -> ClientEvaluation:
        return ClientEvaluation(name, accuracy, 1.0, 10, True, **rest)

    found = [at("a", 0.2), at("b", 0.6), at("c", 0.9), at("d", 1.0, malicious=True), at("stranger", 0.0)]
    groups = {"a": "image_only", "b": "image_only", "c": "both", "d": "both"}
    assert accuracy_of_groups(found, groups) == {
        "modality/clients_both": 0.9,
        "modality/clients_image_only": pytest.approx(0.4),
    }
    assert accuracy_of_groups(found, dict.fromkeys("abcd", "both")) == {}
