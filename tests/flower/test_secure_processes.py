"""Secure aggregation between real processes: three sites, of which one is killed at each of the stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flower.processes import TOLERANCE, Federation, difference, federation, locally

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
