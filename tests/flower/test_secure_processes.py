"""Secure aggregation between real processes: three sites, of which one is killed at each of the stages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flower.processes import TOLERANCE, Federation, difference, federation, locally, until

pytestmark = pytest.mark.slow

ON = ("privacy.secure_aggregation=true", "federated.num_rounds=3", "federated.min_fit_clients=3")
BEFORE = {
    "keys": "round 1: gave . shares to open the sum",
    "shares": "round 2: made keys for secure aggregation",
    "training": "round 2: shared secrets with 2 clients",
    "survivors": "round 2: trained",
    "unmasking": "round 2: signed the list",
}
"""Stage → what the site has said just before."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path, clients=3) as made:
        yield made


def test_sites_end_with_the_model_of_a_plain_run(place: Federation) -> None:
    clients = [place.client(number) for number in (1, 2, 3)]
    server = place.server(*ON)
    assert server.ends() == 0, server.said
    assert difference(server.model, locally(place.data, place.base / "local", *ON[1:])) < TOLERANCE
    assert [client.ends() for client in clients] == [0, 0, 0]
    for client in clients:
        assert not [*client.state.rglob("stages/*")], "its secrets are wiped"


@pytest.mark.parametrize("stage", BEFORE)
def test_a_site_that_is_killed_is_recovered_from(place: Federation, stage: str) -> None:
    """It joins again for the last round, whose cohort is everybody."""
    clients = [place.client(number) for number in (1, 2, 3)]
    server = place.server(*ON, "server.rejoin_seconds=2")
    clients[1].wait_for(BEFORE[stage])
    clients[1].end()
    server.round(2)
    again = place.client(2)
    assert server.ends() == 0, server.said
    assert again.ends() == 0
    lines = server.lines
    assert [len(line["cohort"]) for line in lines][::2] == [3, 3]
    assert len(lines[1]["cohort"]) in (2, 3)
    assert {failure["client"] for line in lines for failure in line["failures"]} <= {"client2"}
    assert "Traceback" not in server.said


PRIVATE = (
    *ON, "privacy.mode=central", "privacy.population=3", "privacy.clip=0.01", "privacy.noise_multiplier=2",
    "federated.fraction_fit=1", "data.validation=0", "data.client_test=0",
)  # fmt: skip


def rounds_in(ledger: Path) -> list[int]:
    return [json.loads(line)["round"] for line in ledger.read_text().splitlines()[1:]]


@pytest.mark.parametrize("moment", ["masked", "opened"])
def test_a_server_that_is_killed_within_a_round_repeats_it_and_counts_what_it_may_have_opened(
    place: Federation, moment: str
) -> None:
    """Masked updates have come, but no share of a secret was asked for; or a sum may have been opened."""
    clients = [place.client(number) for number in (1, 2, 3)]
    server = place.server(*PRIVATE)
    ledger = server.folder / "privacy.jsonl"
    if moment == "masked":
        clients[0].wait_for("round 2: trained")
    else:
        until(lambda: ledger.exists() and 2 in rounds_in(ledger), "a second round in the ledger")
    server.kill()
    spent = rounds_in(ledger)
    begun = max(int(path.name[-8:]) for path in server.folder.glob("checkpoints/round-????????"))
    again = place.resumed(server)
    assert again.ends() == 0, again.said
    assert [client.ends() for client in clients] == [0, 0, 0]
    assert rounds_in(ledger) == [*spent, *range(begun + 1, 4)]
    assert spent == ([1] if moment == "masked" else [1, 2])
    assert [line["round"] for line in again.lines] == [1, 2, 3]
    for client in clients:
        assert not [*client.state.rglob("stages/*")], "its secrets are wiped"
