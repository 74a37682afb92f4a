"""A run's privacy from its configuration: the figures that the run itself will have."""

from pathlib import Path

import pytest
from tests.problems import refuses, refuses_with

from fedlens.build.experiment import build_experiment
from fedlens.build.load import load
from fedlens.build.privacy import private_sum
from fedlens.build.privacy_plan import PlannedRun, planned
from fedlens.data import federate
from fedlens.reports.privacy_plan import plan_lines

CENTRAL = ("privacy.mode=central", "model.name=lenet", "data.validation=0", "data.client_test=0")
MANY = (*CENTRAL, "federated.num_rounds=40", "federated.fraction_fit=0.1")


def plan_of(*overrides: str, clients: int | None = None) -> PlannedRun:
    return planned(load(None, overrides), clients)


@pytest.fixture(autouse=True)
def nothing_is_decoded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "decodes" not in request.keywords:
        monkeypatch.setattr(federate, "build_cache", lambda *_: pytest.fail("an image was decoded"))


@pytest.mark.parametrize("more", [(), ("personalization.name=fedper",), ("model.freeze=backbone",)])
def test_counts_the_numbers_of_an_update(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(None, [*CENTRAL, *more])
    run = planned(config)
    monkeypatch.undo()
    experiment = build_experiment(config, tmp_path, lambda _: lambda _done, _all: None, model=None, data=None)
    sums = private_sum(experiment)
    assert sums is not None
    assert run.coordinates == sum(value.numel() for value in experiment.shared.values())
    assert run.claim.population == sums.claim.population == 10
    assert run.claim.terms == sums.claim.terms


def test_more_clients_than_the_data_has() -> None:
    run = plan_of(*MANY, clients=1000)
    assert (run.claim.population, run.claim.cohort) == (1000, 100)
    assert run.loudness == pytest.approx(run.coordinates**0.5 / 100)  # σ √d / cohort, for σ = 1
    assert run.loudness_in_all == pytest.approx(run.loudness / 40**0.5)
    assert run.noise_multiplier == 1.0


def test_the_data_says_how_many_clients_there_are() -> None:
    run = plan_of(*CENTRAL, "data.partition.scheme=iid", "data.partition.clients=50")
    assert run.claim.population == 50


def test_clients_are_told_once() -> None:
    with refuses_with("contradiction", "--clients 20: privacy.population says"):
        plan_of(*CENTRAL, "privacy.population=30", clients=20)


@pytest.mark.parametrize(("mode", "budget"), [("central", 6), ("local", 30)])
def test_noise_with_which_a_budget_lasts(mode: str, budget: int) -> None:
    privacy = (f"privacy.mode={mode}", f"privacy.budget={budget}")
    begin = ("federated.num_rounds=20", "federated.fraction_fit=0.5", "model.name=lenet", *privacy)
    short = plan_of(*begin, "privacy.noise_multiplier=1.5", clients=100)
    assert 0 < short.plan.affordable < 20
    assert short.noise_multiplier == pytest.approx(1.5)
    assert short.lasting is not None
    long = plan_of(*begin, f"privacy.noise_multiplier={short.lasting}", clients=100)
    assert (long.plan.affordable, long.lasting) == (20, None)


def test_noise_for_a_target() -> None:
    run = plan_of(*MANY, "privacy.target_epsilon=4", clients=1000)
    assert 3.95 < run.plan.after.value <= 4


def test_correlated_noise_adds_up_to_less() -> None:
    begin = (*MANY, "privacy.sampling=cyclic")
    plain, correlated = plan_of(*begin, clients=1000), plan_of(*begin, "privacy.mechanism=dp_ftrl", clients=1000)
    assert correlated.loudness > plain.loudness
    # the same noise multiplier costs dp_ftrl less; four participations of each client would cost the other as much
    # with twice the noise
    assert correlated.loudness_in_all < 2 * plain.loudness_in_all * 0.6


def test_noise_in_shares_of_the_clients() -> None:
    """100 of 1,000 clients a round, of which 67 have to stay and 20 may be dishonest."""
    run = plan_of(*MANY, "privacy.secure_aggregation=true", clients=1000)
    alone = plan_of(*MANY, "privacy.sampling=cyclic", clients=1000)
    assert run.plan.after == alone.plan.after
    assert run.loudness == pytest.approx(alone.loudness * (100 / 47) ** 0.5)
    said = dict(plan_lines(run))
    assert said["privacy"] == "central, gaussian noise, cyclic sampling"
    assert said["shares"].startswith(
        "each client adds σ = 0.1459 × clip: enough where 67 of 100 clients stay, of which 20 "
    )


def test_a_mode_without_a_claim() -> None:
    with refuses(("incompatible", "privacy.mode")):
        plan_of("privacy.mode=none")
