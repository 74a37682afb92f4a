"""The contract between runtimes, on real processes: a federation over gRPC ends with the model of a local run."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.flower.processes import (
    ROOT,
    TOLERANCE,
    Client,
    Federation,
    difference,
    federation,
    locally,
)
from tests.runtimes.sample import ALGORITHMS

from fedlens.tracking.metrics import read_metrics

pytestmark = pytest.mark.slow

ROUNDS = 6
PLUGIN = "my_scaffold.py"
SCAFFOLD = (
    f"plugins=[{PLUGIN}]",
    "strategy.name=my_scaffold",
    "optimizer.momentum=0",
    "optimizer.keep=false",  # without momentum there is nothing to keep
    "optimizer.lr=0.15",
)
RUNS = {**ALGORITHMS, "SCAFFOLD of docs/extending.md": SCAFFOLD}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Federation]:
    with federation(tmp_path_factory.mktemp("contract"), clients=3) as made:
        page = (ROOT / "docs" / "extending.md").read_text()
        found = re.search(rf'```python title="{PLUGIN}"\n(.*?)```', page, re.DOTALL)
        assert found
        (made.base / PLUGIN).write_text(found[1])
        yield made


@pytest.fixture(scope="module")
def clients(place: Federation) -> list[Client]:
    """Three that stay from run to run."""
    return [place.client(number, "--stay", f"plugins=[{place.base / PLUGIN}]") for number in (1, 2, 3)]


def cohorts(lines: list[dict]) -> list[list[str]]:
    return [sorted(report["client"] for report in line["cohort"]) for line in lines]


@pytest.mark.parametrize("run", RUNS)
def test_the_final_model_is_that_of_a_local_run(place: Federation, clients: list[Client], run: str) -> None:
    overrides = [text.replace(PLUGIN, str(place.base / PLUGIN)) for text in (*RUNS[run], "federated.min_fit_clients=3")]
    first = locally(place.data, place.base / "first" / run, *overrides, "optimizer.lr=1e-12", "federated.num_rounds=1")
    expected = locally(place.data, place.base / "local" / run, *overrides)
    for name, value in expected.items():
        moved = (value - first[name]).abs().max()
        if "FedPer" in run and name.startswith("head."):
            assert moved == 0
        else:
            assert moved > 1000 * TOLERANCE, f"{name} moved by {moved:.1e} only: the test would show nothing"

    server = place.server(*overrides)
    assert server.ends() == 0, server.said
    assert difference(server.model, expected) < TOLERANCE
    lines, alike = server.lines, read_metrics(next((place.base / "local" / run).glob("*/metrics.jsonl")))
    assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
    assert cohorts(lines) == cohorts(alike)
    assert not any(line["failures"] for line in lines)
    assert all(client.running for client in clients)
    doubted = " ".join(server.said.split()).count("use one far below 1/3 = 0.3")
    assert doubted == ("privacy.delta=0.4" in overrides), "a δ is doubted against the sites that have come"


def test_a_run_leaves_nothing_running_and_no_update_on_the_disk(tmp_path: Path) -> None:
    with federation(tmp_path) as place:
        clients = [place.client(1), place.client(2)]
        server = place.server("server.database=true", "federated.num_rounds=2")
        server.ready(2)
        started = [server.superlink, *(client.trainer for client in clients)]
        database = server.folder / "superlink" / "state.db"
        assert database.exists()
        for private in (database.parent, *(client.state for client in clients)):
            assert private.stat().st_mode & 0o077 == 0, f"others may read {private}"
        assert [program.ends() for program in (server, *clients)] == [0, 0, 0]
        assert psutil.wait_procs(started, timeout=10)[1] == []
        assert not list(database.parent.glob("state.db*"))
        for client in clients:
            assert "the run is over: all its rounds are done (2)" in client.said
            assert (client.state / "outbox.jsonl").read_text().count('"what": "train') == 2
            assert not list((client.state / "journal").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_either_end(tmp_path: Path, number: signal.Signals) -> None:
    """A server that is stopped says how to go on, and its client waits for it; a client that is stopped leaves."""
    with federation(tmp_path) as place:
        client, server = place.client(1), place.server("federated.num_rounds=1000", "federated.min_fit_clients=1")
        server.round(2)
        started = [*server.children, *client.children]
        server.signal(number)
        assert server.ends(20) == 128 + number
        assert f"Go on with: fedlens server --resume {server.folder}" in server.said
        client.wait_for("joining again")
        client.signal(number)
        assert client.ends(20) == 128 + number
        assert psutil.wait_procs(started, timeout=10)[1] == []
        assert "Traceback" not in server.said + client.said
