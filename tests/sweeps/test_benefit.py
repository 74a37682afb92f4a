"""What is said of a federation's benefit: with figures that are easy to follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.problems import refuses

from fedlens.data.types import ClientRows
from fedlens.errors import DataError
from fedlens.sweeps.baselines import Trio, trios
from fedlens.sweeps.benefit import Measured, benefit, notes, points, sentences, table
from fedlens.sweeps.benefit_page import render
from fedlens.tracking.observer import Silent

FIXED = ["model.name=lenet", "data.partition.scheme=iid", "data.partition.clients=4"]


def found(*overrides: str, seeds: int = 1) -> list[Trio]:
    return trios(None, [*FIXED, *overrides], seeds, "benefit", Silent().progress)


def test_the_three_runs_of_a_seed() -> None:
    """20 rounds of half of the clients are as many images as 10 rounds of all."""
    first, second = found(
        *("federated.fraction_fit=0.5", "strategy.name=fedprox", "privacy.mode=central", "privacy.clip=1", "seed=5"),
        *("privacy.noise_multiplier=1", "privacy.delta=1e-3"),
        seeds=2,
    )
    assert [point.label for point in (*first.points, *second.points)] == [
        "federation seed=5", "local seed=5", "central seed=5", "federation seed=6", "local seed=6", "central seed=6",
    ]  # fmt: skip
    federation, local, central = (point.config for point in first.points)
    assert [one.personalization.name for one in (federation, local, central)] == ["finetune", "local", "none"]
    assert [one.federated.num_rounds for one in (federation, local, central)] == [20, 20, 10]
    assert [one.strategy.name for one in (federation, local, central)] == ["fedprox", "fedavg", "fedavg"]
    assert [one.privacy.mode for one in (federation, local, central)] == ["central", "none", "none"]
    assert [one.data.partition.pooled for one in (federation, local, central)] == [False, False, True]
    assert [one.federated.fraction_fit for one in (federation, local, central)] == [0.5, 0.5, 1.0]
    assert all(one.seed == 5 for one in (federation, local, central))
    assert federation.tracking.dir == Path("logs/benefit")
    assert first.personal == "fine-tuned"


@pytest.mark.parametrize(
    ("keys", "rounds"),
    [
        ([], 4),  # Flower's rule: two clients at least
        (["privacy.mode=central"], 2),  # a coin for each: one of ten on average
        (["privacy.mode=central", "privacy.sampling=cyclic"], 2),
    ],
)
def test_one_place_sees_as_many_images_as_all_clients(keys: list[str], rounds: int) -> None:
    """20 rounds of a tenth of ten clients."""
    noise = ["privacy.clip=1", "privacy.noise_multiplier=1", "privacy.delta=1e-3"] if keys else []
    (trio,) = found("data.partition.clients=10", "federated.fraction_fit=0.1", *keys, *noise)
    assert trio.central.config.federated.num_rounds == rounds


def test_one_place_is_one_client() -> None:
    (trio,) = found("federated.quorum=3")
    assert [point.config.federated.quorum for point in trio.points] == [3, 3, 1]


def test_no_run_stops_early() -> None:
    """All make as many steps."""
    assert all(point.config.stopping.patience is None for point in found("stopping.patience=3")[0].points)


def test_a_personalization_of_its_own_is_kept() -> None:
    (trio,) = found("personalization.name=ditto")
    assert (trio.federation.config.personalization.name, trio.personal) == ("ditto", "ditto")


def test_attackers_are_no_sites() -> None:
    with refuses(("contradiction", "attack.name")):
        found("attack.name=sign_flip", "attack.fraction=0.25")


def test_a_client_of_one_name_holds_the_same_images_with_every_seed() -> None:
    first, second = found("data.partition.scheme=dirichlet", seeds=2)
    one, two = ([{*own.train, *own.val, *own.test} for own in trio.images.clients] for trio in (first, second))
    assert one == two
    assert first.images.clients[0].test.tolist() != second.images.clients[0].test.tolist()
    natural = trios(None, ["model.name=lenet", "data.partition.scheme=natural"], 2, "benefit", Silent().progress)
    assert [trio.local.config.data.partition.seed for trio in natural] == [None, None]


def test_local_training_is_no_federation() -> None:
    with refuses(("contradiction", "personalization.name")):
        found("personalization.name=local")


def test_what_is_pooled_is_everything_that_clients_train_on() -> None:
    (trio,) = found()
    (everybody,) = trio.images.pooled().clients
    for split in ("train", "val", "test"):
        theirs = np.concatenate([getattr(client, split) for client in trio.images.clients])
        assert getattr(everybody, split).tolist() == theirs.tolist()
    assert not set(everybody.train) & {*everybody.test, *everybody.val, *trio.images.test}
    assert trio.images.pooled().test is trio.images.test


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.client_test=0", "data.client_test"),
        ("data.partition.clients=1", "data.partition"),
        ("data.partition.pooled=true", "data.partition"),
        ("schedule.name=fedbuff", "schedule.name"),
    ],
)
def test_what_cannot_be_compared(override: str, key: str) -> None:
    with refuses(("incompatible", key)):
        found(override)


def trio_of(names: str) -> Trio:
    """Clients with 8 training and 2 test images each."""
    (one,) = found()
    rows = tuple(ClientRows(name, np.arange(8), np.arange(0), np.arange(2)) for name in names)
    return Trio(0, type(one.images)(**{**vars(one.images), "clients": rows}), one.federation, one.local, one.central)


def measured(gains: dict[str, float], shared: float = -0.1, missing: str = "") -> Measured:
    """Alone, all have 0.5; fine-tuned so much more; the shared model `shared` more; all in one place 0.2 more."""
    own = {
        "local": dict.fromkeys(gains, 0.5),
        "fine-tuned": {name: 0.5 + gain for name, gain in gains.items() if name != missing},
        "federation": dict.fromkeys(gains, 0.5 + shared),
        "central": dict.fromkeys(gains, 0.7),
    }
    everywhere = {"local": 0.4, "fine-tuned": 0.5, "federation": 0.6, "central": 0.7}
    return Measured(own, everywhere, {name: dict.fromkeys(gains, 0.5) for name in (*gains, "federation", "central")})


def test_who_gains_and_who_does_not() -> None:
    """a: 0.1, 0.11, 0.12: mean 0.11, s = 0.01, t(2) = 4.303: ± 0.0248. b: 0, 0.1, -0.1: ± 0.248. c: -0.02 always but
    for 0.001: loses."""
    seeds = [
        measured({"a": 0.10, "b": 0.0, "c": -0.020}),
        measured({"a": 0.11, "b": 0.1, "c": -0.021}),
        measured({"a": 0.12, "b": -0.1, "c": -0.019}),
    ]
    result = benefit([trio_of("cab")] * 3, seeds)
    assert result.models == ["local", "federation", "fine-tuned", "central"]
    assert result.main == "fine-tuned"
    assert [site.name for site in result.sites] == ["a", "b", "c"]
    first = result.sites[0].gains["fine-tuned"]
    assert (first.value, first.half) == pytest.approx((0.11, 4.303 * 0.01 / 3**0.5), rel=1e-3)
    assert [[site.name for site in result.sites_that(what, "fine-tuned")] for what in ("gains", "open", "loses")] == [
        ["a"], ["b"], ["c"],
    ]  # fmt: skip
    first, second, third = sentences(result)
    assert first.startswith("Federating may help or harm: +3.0 ±")
    assert "with the model fine-tuned at home; 1 of 3 sites gain clearly, c (-2.0 ± 0.2) loses" in first
    assert second.startswith("With the shared model: -10.0 ± 0.0 points; 0 of 3 sites gain clearly, a (-10.0 ± 0.0)")
    assert third == "Everything in one place would give +20.0 ± 0.0 points over training alone"
    head, rows = table(result)
    assert head == ("site", "images", "test", "local", "federation", "fine-tuned", "central", "gain, fine-tuned")
    assert rows[1] == ("a", "8", "2", "50.0 ± 0.0 %", "40.0 ± 0.0 %", "61.0 ± 2.5 %", "70.0 ± 0.0 %", "+11.0 ± 2.5")
    assert rows[0] == (
        "global test images", "", "", "40.0 ± 0.0 %", "60.0 ± 0.0 %", "50.0 ± 0.0 %", "70.0 ± 0.0 %", "+10.0",
    )  # fmt: skip
    page = render(result)
    assert f"<b>{first}.</b>" in page
    assert "Across sites" in page


def test_a_federation_that_helps_all() -> None:
    result = benefit([trio_of("ab")] * 3, [measured({"a": 0.0, "b": 0.0}, shared) for shared in (0.1, 0.11, 0.12)])
    assert result.main == "federation"
    assert next(sentences(result)).startswith("Federating helps: +11.0 ± 2.5 points in the mean over 2 sites")


def test_one_seed_says_that_it_says_little() -> None:
    result = benefit([trio_of("ab")], [measured({"a": 0.1, "b": 0.2})])
    assert next(sentences(result)) == (
        "Federating, against training alone: +15.0 points in the mean over 2 sites, with the model fine-tuned at home. "
        "1 seed cannot tell that from chance; use --seeds 3"
    )
    assert "no intervals: fewer than three seeds" in notes(result)
    assert "a site has 2 test images alone: a larger data.client_test tells more" in notes(result)
    assert not result.sites_that("gains", "fine-tuned")


def test_a_client_that_one_seed_did_not_ask_is_left_out() -> None:
    seeds = [measured({"a": 0.1, "b": 0.2}), measured({"a": 0.1, "b": 0.2}, missing="b")]
    result = benefit([trio_of("ab")] * 2, seeds)
    assert [site.name for site in result.sites] == ["a"]
    assert result.missing == ["b"]
    assert notes(result)[-1] == "left out, without test images or never asked to train: b"
    with pytest.raises(DataError, match="asked to train with every seed"):
        benefit([trio_of("b")], [measured({"b": 0.2}, missing="b")])


def test_nothing_is_minus_zero() -> None:
    (site,) = benefit([trio_of("a")], [measured({"a": -1e-9})]).sites
    assert points(site.gains["fine-tuned"]) == "+0.0 points"


def test_names_are_not_read_as_html() -> None:
    trio = trio_of("a")
    bad = "<script>window.broken=1</script>"
    rows = (ClientRows(bad, np.arange(8), np.arange(0), np.arange(2)),)
    trio = Trio(0, type(trio.images)(**{**vars(trio.images), "clients": rows}), *trio.points)
    assert bad not in render(benefit([trio], [measured({bad: 0.1})]))
