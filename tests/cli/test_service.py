"""`fedlens server --service` and `--resume auto`: which run a process that was started again goes on with, and what
it does at the end."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from tests.commands import OTHER, refused, refused_in_one_line
from tests.flower.processes import federation, until

from fedlens.cli import service
from fedlens.tracking.run_dir import RunDir, find_runs


def run(base: Path, folder: str, *, finished: bool = True) -> Path:
    made = RunDir(base / folder)
    made.checkpoints.mkdir(parents=True)
    made.config.write_text("seed: 0\n", encoding="utf-8")
    if finished:
        made.finish("all rounds")
    return made.path


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_newest_run_of_that_name_counts(tmp_path: Path) -> None:
    assert service.newest_named(tmp_path / "none", "demo") is None
    run(tmp_path, "demo-20261128-100000")
    newest = run(tmp_path, "demo-20261128-100000-2", finished=False)
    run(tmp_path, "demo-two-20261128-110000")
    run(tmp_path, "other-20261128-110000")
    found = service.newest_named(tmp_path, "demo")
    assert found is not None and found.path == newest
    assert service.newest_named(tmp_path, "de.o") is None


def test_resume_and_service_exclude_each_other(in_an_empty_folder: None) -> None:
    refused_in_one_line("server --service --resume latest", "--service finds the run by itself; leave out --resume")


def test_a_port_that_is_taken_when_the_run_has_ended_is_one_line(in_an_empty_folder: None) -> None:
    run(Path("logs"), "demo-20261128-100000")
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        last = refused(f"server --service --name demo --server_address {address}", OTHER)[-1]
    assert f"server.address: {address} cannot be used (Address already in use); stop what listens there" in last


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again(tmp_path: Path) -> None:
    """As a service manager does it, three times with one command line: start, resume after a kill, nothing to do."""
    with federation(tmp_path) as place:
        clients = [place.client(number, "--stay") for number in (1, 2)]
        logs = tmp_path / "logs"
        lines = ("--service", "--name", "demo")
        first = place.server(*lines, logs=logs)
        first.round(2)
        first.kill()
        again = place.server(*lines, logs=logs)
        again.wait_for("with the configuration that it began with")
        again.wait_for("this server waits until it is stopped")
        assert [line["round"] for line in again.lines] == [1, 2, 3, 4, 5, 6]
        until(lambda: listens(place.port), "the port that a health check asks for")
        again.signal(signal.SIGTERM)
        assert again.ends() == 128 + signal.SIGTERM
        third = place.server(*lines, logs=logs)
        third.wait_for(f"{first.folder.name} is finished")
        third.signal(signal.SIGTERM)
        assert third.ends() == 128 + signal.SIGTERM
        assert len(list(logs.iterdir())) == 1
        assert all(client.running for client in clients)


@pytest.mark.slow
def test_resume_auto_goes_on_where_a_run_is_unfinished_else_begins_one(tmp_path: Path) -> None:
    """Killed before the sites are there, killed in a round, and ended."""
    with federation(tmp_path) as place:
        logs, lines = tmp_path / "logs", ("--resume", "auto", "--name", "demo")
        early = place.server(*lines, logs=logs)
        early.wait_for("waiting for clients")
        early.kill()
        for number in (1, 2):
            place.client(number, "--stay")
        first = place.server(*lines, logs=logs)
        first.round(2)
        first.kill()
        again = place.server(*lines, logs=logs)
        assert again.ends() == 0
        assert "with the configuration that it began with" in again.said
        assert [line["round"] for line in again.lines] == [1, 2, 3, 4, 5, 6]
        place.server(*lines, logs=logs)
        until(lambda: len(find_runs(logs)) == 2, "a second run")
