"""Real faults on real processes: a run ends as if nothing had happened, or says whose update was lost.

Two clients that stay from run to run serve all tests; each test starts a server of its own, and further clients. Before
something is killed a client is stopped at work, with a task that it has accepted: so the moment is always the same.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest
from tests.flower.processes import (
    PATIENCE,
    TOLERANCE,
    Client,
    Federation,
    Server,
    State,
    difference,
    federation,
    locally,
    until,
)

pytestmark = pytest.mark.slow

ROUNDS = 6
Pair = dict[int, Client]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Federation]:
    with federation(tmp_path_factory.mktemp("faults"), clients=5) as made:
        yield made


@pytest.fixture(scope="module")
def residents(place: Federation) -> Pair:
    return {number: place.client(number, "--stay") for number in (1, 2)}


@pytest.fixture
def pair(place: Federation, residents: Pair) -> Iterator[Pair]:
    """Both are running, whatever the test before did to them; nothing else is."""
    for number, client in residents.items():
        if not client.running:
            residents[number] = place.client(number, "--stay")
    yield residents
    place.end(*residents.values())


@pytest.fixture(scope="module")
def undisturbed(place: Federation) -> State:
    """The two clients' model without any fault; test_processes.py shows that a federation gives a local run's."""
    two = place.base / "two"
    two.mkdir()
    for name in ("client1", "client2", "test", "classes.json"):
        (two / name).symlink_to(place.data / name)
    return locally(two, place.base / "local")


def assert_as_if_nothing_had_happened(server: Server, undisturbed: State) -> None:
    assert server.ends() == 0, server.said
    lines = server.lines
    assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
    assert [line["failures"] for line in lines] == [[]] * ROUNDS
    assert [who_trained(line) for line in lines] == [["client1", "client2"]] * ROUNDS
    assert difference(server.model, undisturbed) < TOLERANCE


def who_trained(line: dict) -> list[str]:
    return sorted(report["client"] for report in line["cohort"])


def test_a_client_killed_in_training_and_started_again(place, pair, undisturbed) -> None:
    """Once its trainer outlives it and ends its work in vain; once both die, as when a machine does."""
    server = place.server()
    server.round(1)
    trainer = pair[1].stopped_at_work()
    pair[1].kill()
    trainer.resume()
    assert psutil.wait_procs([trainer], timeout=PATIENCE)[1] == []
    pair[1] = place.client(1, "--stay")
    server.round(3)
    pair[2].stopped_at_work()
    pair[2].end()
    pair[2] = place.client(2, "--stay")
    assert_as_if_nothing_had_happened(server, undisturbed)


def test_a_killed_trainer_costs_its_update_and_the_round_says_so(place, pair) -> None:
    server = place.server()
    server.round(1)
    pair[2].stopped_at_work().kill()
    assert server.ends() == 0, server.said
    (hit,) = [line for line in server.lines if line["failures"]]
    (failure,) = hit["failures"]
    assert failure["client"] == "client2"
    assert "the process that trains at this site ended with exit code -9" in failure["reason"]
    assert failure["reason"] in server.said
    assert who_trained(hit) == ["client1"]
    others = [line for line in server.lines if line is not hit and not line["failures"]]
    assert [who_trained(line) for line in others] == [["client1", "client2"]] * (ROUNDS - 1)
    assert pair[2].running


@pytest.mark.parametrize("database", ["false", "true"])
def test_a_killed_superlink_is_started_again(place, pair, undisturbed, database: str) -> None:
    server = place.server(f"server.database={database}")
    server.round(1)
    trainer = pair[1].stopped_at_work()
    server.superlink.kill()
    trainer.resume()
    assert_as_if_nothing_had_happened(server, undisturbed)
    assert server.said.count("lost Flower's SuperLink") == 1


def test_a_server_killed_in_a_round_goes_on_with_resume(place, pair, undisturbed) -> None:
    killed = place.server()
    killed.round(2)
    trainer, superlink = pair[1].stopped_at_work(), killed.superlink
    killed.kill()
    assert psutil.wait_procs([superlink], timeout=10)[1] == []
    resumed = place.resumed(killed)
    trainer.resume()
    assert_as_if_nothing_had_happened(resumed, undisturbed)
    assert "going on after round" in resumed.said


def test_a_client_that_never_answers_is_left_out_at_the_deadline(place, pair) -> None:
    """It comes back when it wakes up."""
    # a third program that starts may take all of a slow machine for seconds: the others must answer all the same
    server = place.server("federated.round_deadline=15", "federated.num_rounds=1000")
    server.round(1)
    third = place.client(3)
    server.wait_for("client3 is here")
    trainer = third.stopped_at_work()
    third.signal(signal.SIGSTOP)
    (hit, *_) = until(lambda: [line for line in server.lines if line["failures"]], "a round without client3")
    assert hit["failures"] == [{"client": "client3", "reason": "no answer within 15 s"}]
    assert who_trained(hit) == ["client1", "client2"]
    third.signal(signal.SIGCONT)
    trainer.resume()
    until(lambda: [line for line in server.lines if line["round"] > hit["round"] and len(line["cohort"]) == 3], "it")
    server.signal(signal.SIGINT)
    assert server.ends() == 130, server.said


def test_over_selection_does_not_wait_for_the_last(place, pair) -> None:
    server = place.server(*("federated.fraction_fit=0.67", "federated.over_selection=0.5", "federated.num_rounds=1000"))
    server.round(1)
    third = place.client(3)
    server.wait_for("client3 is here")
    third.stopped_at_work()
    third.signal(signal.SIGSTOP)
    stopped = len(server.lines)
    server.round(stopped + 10)
    for line in server.lines[stopped:]:
        assert (who_trained(line), line["failures"]) == (["client1", "client2"], [])
    server.signal(signal.SIGINT)
    assert server.ends() == 130, server.said


def test_two_of_five_clients_are_gone_for_good(place, pair) -> None:
    server = place.server("federated.min_fit_clients=3", "server.rejoin_seconds=1")
    third = place.client(3)
    server.ready(3)
    trainer = pair[1].stopped_at_work()  # so that no round ends until all are here
    doomed = [place.client(number) for number in (4, 5)]
    for number in (4, 5):
        server.wait_for(f"client{number} is here")
    trainer.resume()
    doomed[0].stopped_at_work()
    for client in doomed:
        client.end()
    assert server.ends() == 0, server.said
    lost = [failure for line in server.lines for failure in line["failures"]]
    assert {failure["reason"] for failure in lost} == {"the connection to it was lost"}
    assert sorted(failure["client"] for failure in lost) in (["client4"], ["client4", "client5"])
    assert who_trained(server.lines[-1]) == ["client1", "client2", "client3"]
    assert third.ends() == 0


def test_who_comes_while_a_round_is_on(place, pair) -> None:
    """A new client takes part from the next round; a second one of the same partition is told so, and ends."""
    server = place.server()
    server.ready(2)
    trainer = pair[1].stopped_at_work()
    before = len(server.lines)
    late, double = place.client(3), place.client(2, state=place.base / "elsewhere")
    same_folder = place.client(2)
    assert same_folder.ends() == 2
    assert "partition_id=1: a client of that partition (client2) already runs here" in same_folder.said
    assert double.ends() == 1
    told = "partition 1 (client2) is already here from another place, with 60 images: give each client a --partition_id"
    assert told in double.said
    assert f"client2 stays out: {told}" in server.said
    server.wait_for("client3 is here")
    trainer.resume()
    assert server.ends() == 0, server.said
    cohorts = [who_trained(line) for line in server.lines]
    assert cohorts == [["client1", "client2"]] * (before + 1) + [["client1", "client2", "client3"]] * (
        ROUNDS - before - 1
    )
    assert late.ends() == 0
    assert "Traceback" not in "".join(program.said for program in (server, late, double, same_folder))
