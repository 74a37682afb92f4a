"""Series and figures, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
from tests.explain.rounds import CLIENTS, CONFIG, EQUAL, GUESSING, ONE_EACH, client, falling, line, partition

from fedlens.explain.evidence import Evidence


def evidence(metrics, counts=EQUAL) -> Evidence:
    return Evidence(CONFIG, metrics, partition(counts))


@pytest.mark.parametrize(("diversity", "cosine"), [(0.25, 1.0), (1.0, 0.0), (0.4, 0.5), (4.0, -0.25)])
def test_agreement_is_the_mean_cosine(diversity: float, cosine: float) -> None:
    """Four vectors of length 1 with the mean cosine c have ‖Σ‖² = 4 + 12 c, so Δ_S = 4 / (4 + 12 c) = 1 / (1 + 3 c)."""
    run = evidence([line(1, measures={"diversity/updates": diversity})])
    assert run.agreement[0] == pytest.approx(cosine)


def test_movement_and_stride_are_ratios_of_lengths() -> None:
    """The step 0.5 on a model of length 5; the mean of four orthogonal updates of length 1 has the length 1/2."""
    run = evidence([line(1), line(2, update_norm=2.0)])
    assert run.movement.tolist() == pytest.approx([0.1, 0.4])
    assert run.stride.tolist() == pytest.approx([1.0, 4.0])


def test_what_is_lost_is_the_part_of_what_clients_know() -> None:
    """Trained 0.2, and 0.8 in the next round: 0.6 of ln 4 − 0.2 = 1.19. A round in which nobody has learnt anything
    does not count: 1.3 is less than a tenth below ln 4."""
    rounds = [[client(name, 0.8, 0.2) for name in CLIENTS]] * 3
    nothing = [client(name, GUESSING, 1.3) for name in CLIENTS]
    run = evidence([line(number, cohort=cohort) for number, cohort in enumerate([nothing, *rounds], start=1)])
    assert run.kept == pytest.approx((0.2, 0.8))
    assert run.lost == pytest.approx(0.6 / (GUESSING - 0.2))


def test_one_odd_client_moves_no_median() -> None:
    cohort = [*(client(name, 0.5, 0.5) for name in CLIENTS[:3]), client("d", 90.0, 90.0)]
    assert evidence([line(1, cohort=cohort)]).before[0] == 0.5


@pytest.mark.parametrize(
    ("counts", "unlike"),
    [(EQUAL, 0.0), (ONE_EACH, 1.0), ([[20, 20, 0, 0], [20, 20, 0, 0], [0, 0, 20, 20], [0, 0, 20, 20]], 2 / 3)],
)
def test_labels_are_unlike_between_equal_shares_and_one_class_a_client(counts, unlike: float) -> None:
    """Two of four classes: total variation ½, of ¾ where each client has one class."""
    assert evidence([line(1)], counts).unlike == pytest.approx(unlike)


def test_gained_is_the_last_thirds_part_of_the_fall() -> None:
    """1.0, 0.9, … 0.5 in six evaluations, from ln 4 on: 0.2 of 0.886."""
    run = evidence([line(number + 1, validation=1.0 - 0.1 * number) for number in range(6)])
    assert run.gained == pytest.approx(0.2 / (GUESSING - 0.5))
    assert math.isnan(evidence([line(1)]).gained)


def test_runs_of_earlier_versions_lack_the_new_figures() -> None:
    old = [{**one, "measures": {}, "cohort": [{"client": "a", "metrics": {"loss": 1.0}}]} for one in falling()]
    run = evidence(old)
    assert math.isnan(run.lost)
    assert math.isnan(run.typical(run.movement))
