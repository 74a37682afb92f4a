"""What does not go with secure aggregation, each by one line; and runs with it end as those without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.problems import refuses, refuses_with
from tests.runs import run

from fedlens.build.builders import build_algorithm, build_plan, build_sampler
from fedlens.build.load import load
from fedlens.build.privacy import build_claim
from fedlens.build.secure import described, settings_of
from fedlens.errors import NotEnoughClients
from fedlens.federation.rounds.secure import SecureAggregation
from fedlens.flower.serve import check_serving
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import find_runs

ON = "privacy.secure_aggregation=true"


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("schedule.name=fedbuff", "schedule.name = 'fedbuff': with privacy.secure_aggregation the server sees the sum"),
        ("schedule.name=fedasync", "schedule.name = 'fedasync': with privacy.secure_aggregation the server sees"),
        ("aggregation.name=median", "aggregation.name = 'median': with privacy.secure_aggregation the server sees"),
        ("aggregation.name=krum", "aggregation.name = 'krum': with privacy.secure_aggregation the server sees"),
        ("compression.name=topk", "compression.name = 'topk': with privacy.secure_aggregation the server sees"),
        ("compression.name=half", "compression.name = 'half': with privacy.secure_aggregation the server sees"),
        ("attack.name=sign_flip", "attack.name = 'sign_flip': makes updates up where they arrive, and with privacy."),
        (
            "tracking.leave_one_out=5",
            "tracking.leave_one_out = 5: with privacy.secure_aggregation the server sees the sum",
        ),
        ("tracking.updates=true", "tracking.updates = true: with privacy.secure_aggregation the server sees the sum"),
        ("server.max_weight_share=0.5", "server.max_weight_share = 0.5: with privacy.secure_aggregation the server"),
        (
            "stopping.patience=3",
            "stopping.patience = 3: looks at clients' validation images, and with privacy.sec",
        ),
        ("federated.over_selection=0.6", "federated.over_selection = 0.6: late clients count as lost"),
    ],
)
def test_what_needs_more_than_a_sum_is_refused(setting: str, line: str) -> None:
    load(None, [setting])
    with refuses_with("contradiction", line):
        load(None, [setting, ON])


@pytest.mark.parametrize(
    "setting", ["attack.name=label_flip", "federated.over_selection=0.4", "strategy.name=scaffold"]
)
def test_what_goes_with_a_sum_is_taken(setting: str) -> None:
    load(None, [setting, ON, *(["optimizer.momentum=0"] if "scaffold" in setting else [])])


@pytest.mark.parametrize(
    ("code", "key", "value"),
    [
        ("out_of_range", "privacy.secure_threshold", "0.4"),
        ("out_of_range", "privacy.secure_threshold", "1.1"),
        ("out_of_range", "privacy.secure_neighbours", "0"),
        ("unknown_choice", "privacy.secure_bits", "16"),
        ("out_of_range", "privacy.secure_largest", "0"),
    ],
)
def test_values_out_of_range_are_refused(code, key: str, value: str) -> None:
    with refuses((code, key)):
        load(None, [ON, f"{key}={value}"])


@pytest.mark.parametrize("key", ["threshold=0.6", "neighbours=4", "bits=32", "largest=8"])
def test_its_keys_count_only_with_it(key: str) -> None:
    load(None, [ON, f"privacy.secure_{key}"])
    with refuses(("idle_key", f"privacy.secure_{key.partition('=')[0]}")):
        load(None, [f"privacy.secure_{key}"])


def test_keys_reach_the_protocol() -> None:
    keys = ["threshold=0.6", "neighbours=4", "bits=32", "largest=8"]
    plan = build_plan(load(None, [ON, *(f"privacy.secure_{key}" for key in keys)]))
    assert plan.protocol.keywords == {"how": SecureAggregation(0.6, 4, 32, 8.0)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("neighbours", "warned"), [("null", False), ("4", True), ("9", False), ("20", False)])
def test_too_few_neighbours_are_told(neighbours: str, warned: bool) -> None:
    """Ten clients need all nine others (`graph.neighbours_needed`)."""
    line = described(load(None, [ON, f"privacy.secure_neighbours={neighbours}"]), 10)
    assert ("below the 9 that the bounds of SecAgg+ ask for" in line) == warned


QUICK = ("runtime.name=in_process", "federated.num_rounds=1")


def test_a_cohort_of_one_is_refused_before_a_run_exists(tmp_path: Path) -> None:
    with refuses(("incompatible", "privacy.secure_aggregation")):
        run(tmp_path, *QUICK, ON, "federated.fraction_fit=0.1", "federated.min_fit_clients=1")
    with refuses(("incompatible", "privacy.secure_aggregation")):
        check_serving(load(None, [ON, "federated.min_fit_clients=1"], use="server"))
    uneven = ("privacy.mode=central", "privacy.population=3", "federated.fraction_fit=0.5")  # groups of 2 and 1
    with refuses(("incompatible", "privacy.secure_aggregation")):
        check_serving(load(None, [ON, *uneven], use="server"))
    assert not find_runs(tmp_path)


def test_numbers_that_do_not_fit_are_refused_before_a_run_exists(tmp_path: Path) -> None:
    with refuses(("incompatible", "privacy.secure_bits")):
        run(tmp_path, *QUICK, ON, "privacy.secure_bits=32", "privacy.secure_largest=1e9")
    assert not find_runs(tmp_path)


def test_two_clients_of_which_one_is_lost_end_with_a_line(tmp_path: Path) -> None:
    lost = ("clock.name=half_normal", "clock.dropout=0.99", "federated.fraction_fit=0.2", "federated.min_fit_clients=2")
    with pytest.raises(NotEnoughClients, match=r"of 2 clients are left, and 2 are needed"):
        run(tmp_path, *QUICK, ON, *lost)


@pytest.mark.parametrize("runtime", ["in_process", "local"])
def test_a_run_ends_with_the_model_of_a_plain_one(tmp_path: Path, runtime: str) -> None:
    workers = ["runtime.workers=2"] if runtime == "local" else []
    settings = [f"runtime.name={runtime}", *workers, "federated.num_rounds=2", "strategy.name=fedavgm"]
    plain = run(tmp_path / "plain", *settings)
    secure = run(tmp_path / "secure", *settings, ON)
    expected = plain.model.state_dict()
    for name, value in secure.model.state_dict().items():
        assert torch.allclose(value, expected[name], rtol=0, atol=1e-5), name
    lines = read_metrics(secure.folder / "metrics.jsonl")
    assert [line["test"]["accuracy"] for line in lines] == [
        line["test"]["accuracy"] for line in read_metrics(plain.folder / "metrics.jsonl")
    ]
    assert {name for line in lines for client in line["cohort"] for name in client["metrics"]} == {
        "seconds",
        "bytes_down",
        "bytes_up",
    }


SHARED = (ON, "privacy.mode=central", "privacy.population=100", "federated.fraction_fit=1")


def test_a_claim_needs_as_many_neighbours_as_the_bounds_ask_for() -> None:
    """In a round of 100 clients: 70 and more. Without a claim fewer are told, and taken."""
    assert build_claim(load(None, SHARED), 0) is not None
    assert build_claim(load(None, [*SHARED, "privacy.secure_neighbours=99"]), 0) is not None
    with refuses_with("contradiction", "privacy.secure_neighbours = 20: ε would not hold against the server"):
        build_claim(load(None, [*SHARED, "privacy.secure_neighbours=20"]), 0)


def test_a_clip_that_moves_needs_the_larger_modulus() -> None:
    load(None, [*SHARED, "privacy.clip=adaptive"])
    with refuses_with("contradiction", "privacy.secure_bits = 32: a clip that follows the updates"):
        load(None, [*SHARED, "privacy.clip=adaptive", "privacy.secure_bits=32"])


def test_there_has_to_be_room_for_a_round_and_not_for_everybody(tmp_path: Path) -> None:
    """500 clients of whom 50 take part: with 32 bits noise of all of them would not fit."""
    shared = (*SHARED[:2], "privacy.secure_bits=32", "privacy.clip=0.3", "federated.fraction_fit=0.1")
    noise = build_algorithm(load(None, shared)).chain.sum_noise({}, 50)
    how = settings_of(load(None, shared))
    how.quantization(50, 1, noise)
    with refuses_with("incompatible", "privacy.secure_bits=32: so that the sum of 5,000 clients' updates fits"):
        how.quantization(5_000, 1, noise)
    sampler = build_sampler(load(None, shared))
    assert (sampler.fewest(505), sampler.most(505)) == (50, 51)
    assert build_sampler(load(None, ["federated.fraction_fit=0.1", "federated.over_selection=0.5"])).most(100) == 15
