"""Flower's own commands on FedLens' app: a stock SuperNode beside a resident client, `flwr run`, and the simulation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.flower.processes import SETTINGS, TOLERANCE, Program, difference, federation, free_port, until

from fedlens.flower.app import write_app
from fedlens.tracking.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE = 400.0
"""A process for every message: seconds for what takes a resident client milliseconds."""

BIN = Path(sys.executable).parent
ROUNDS = 3
SHORT = (*SETTINGS, f"federated.num_rounds={ROUNDS}", "federated.local_epochs=2", "data.validation=0")


class Flower:
    """Flower's programs, with a home of their own below `base`."""

    def __init__(self, base: Path) -> None:
        self.base, self.control, self.fleet = base, free_port(), free_port()
        home = base / "flower"
        home.mkdir()
        connection = f'address = "127.0.0.1:{self.control}"\ninsecure = true\n'
        (home / "config.toml").write_text(f'[superlink]\ndefault = "here"\n\n[superlink.here]\n{connection}')
        self._environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": "local",  # not whatever cluster another test has started
            "XDG_STATE_HOME": str(base / "state"),
            "OMP_NUM_THREADS": "1",
        }
        self._started: list[Program] = []

    def superlink(self, *arguments: str) -> Program:
        """On the loopback address, without TLS; it starts the server's app itself."""
        link = self._start(
            "flower-superlink",
            *("--insecure", "--disable-runtime-dependency-installation", *arguments),
            *("--host", "127.0.0.1", "--port", str(self.control), "--fleet-api-address", f"127.0.0.1:{self.fleet}"),
        )
        link.wait_for("Uvicorn running|Application startup complete")
        return link

    def supernode(self, data: Path, partition: int, fleet: int | None = None) -> Program:
        return self._start(
            "flower-supernode",
            *("--insecure", "--superlink", f"127.0.0.1:{fleet or self.fleet}", "--port", str(free_port())),
            *("--node-config", f"data-dir='{data}' partition-id={partition} threads=1"),
        )

    def run(self, *overrides: str, federation: str = "", data: str = "") -> dict[str, str]:
        """`flwr run` on our app; how the run ended, as Flower lists it: `--stream` ends with 0 whatever happens."""
        write_app(self.base / "fedlens-app")
        settings = f"overrides='{' '.join(overrides)}' data='{data}'"
        more = ["--federation-config", federation] if federation else []
        self._flwr("run", str(self.base / "fedlens-app"), "here", "--run-config", settings, *more)
        return until(self._ended, "the run's end", PATIENCE)

    def log(self, run: dict[str, str]) -> str:
        """What the server's app has said in a run."""
        return self._flwr("log", run["run-id"], "here", "--show")

    def end(self) -> None:
        for program in self._started:
            program.end()

    def _ended(self) -> dict[str, str] | None:
        newest = json.loads(self._flwr("list", "here", "--format", "json"))["runs"][0]
        return newest if newest["status"].startswith("finished") else None

    def _start(self, name: str, *arguments: str) -> Program:
        log = self.base / f"{name}-{len(self._started)}.log"
        self._started.append(Program([str(BIN / name), *arguments], log, self._environment))
        return self._started[-1]

    def _flwr(self, *arguments: str) -> str:
        command = [str(BIN / "flwr"), *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def flower(base: Path) -> Iterator[Flower]:
    made = Flower(base)
    try:
        yield made
    finally:
        made.end()


def runs(folder: Path) -> list[Path]:
    return [path.parent for path in sorted(folder.glob("*/result.json"))]


def test_a_stock_supernode_beside_a_resident_client_gives_the_model_of_two_resident_ones(tmp_path: Path) -> None:
    with federation(tmp_path) as place, flower(tmp_path) as stock:
        server, *residents = place.server(settings=SHORT), place.client(1), place.client(2)
        assert [program.ends() for program in (server, *residents)] == [0, 0, 0], server.said
        expected = server.model

        server, resident = place.server(settings=SHORT), place.client(1)
        node = stock.supernode(place.data / "client2", 1, fleet=place.port)
        assert server.ends(PATIENCE) == 0, server.said + node.said
        assert resident.ends() == 0
        assert difference(server.model, expected) < TOLERANCE
        assert not any(line["failures"] for line in server.lines)

        kept = tmp_path / "state" / "fedlens" / "client2"
        versions = [path.stem for path in sorted((kept / server.folder.name).glob("clients/client2/*.safetensors"))]
        assert versions == [f"{number:08}" for number in range(1, ROUNDS + 1)]
        sent = [json.loads(line)["what"] for line in (kept / "outbox.jsonl").read_text().splitlines()]
        assert sent == ["describe", "prepare", *(f"train {number}" for number in range(1, ROUNDS + 1))]


def test_flwr_run_with_a_federation_of_ones_own(tmp_path: Path) -> None:
    with federation(tmp_path) as place, flower(tmp_path) as stock:
        stock.superlink()
        for number in (1, 2):
            stock.supernode(place.data / f"client{number}", number - 1)
        done = stock.run(*SHORT, f"tracking.dir={tmp_path / 'logs'}")
        assert done["status"] == "finished:completed", f"{done}\n{stock.log(done)}"
        (run,) = runs(tmp_path / "logs")
        lines = read_metrics(run / "metrics.jsonl")
        assert [sorted(report["client"] for report in line["cohort"]) for line in lines] == [
            ["client1", "client2"]
        ] * ROUNDS
        assert (run / "model" / "model.safetensors").exists()

        failed = stock.run("model.name=nonsense", f"tracking.dir={tmp_path / 'logs'}")
        assert failed["status"] == "finished:failed"
        assert "model.name = 'nonsense': unknown model" in failed["status-details"]
        assert runs(tmp_path / "logs") == [run]


@pytest.mark.parametrize("images", [60, 200])
def test_flowers_simulation(tmp_path: Path, images: int) -> None:
    """With client folders of 60 images each, or the sample's 200; a tenth of them is each client's own test."""
    with federation(tmp_path, clients=3) as place, flower(tmp_path) as stock:
        stock.superlink("--simulation")
        done = stock.run(
            *(*SHORT, "federated.min_fit_clients=3", "federated.evaluate_every=1", f"tracking.dir={tmp_path / 'logs'}"),
            federation="num-supernodes=3 client-resources-num-cpus=1",
            data=str(place.data) if images == 60 else "",
        )
        assert done["status"] == "finished:completed", f"{done}\n{stock.log(done)}"
        (run,) = runs(tmp_path / "logs")
        lines = read_metrics(run / "metrics.jsonl")
        held = {f"client{number}": images * 9 / 10 for number in (1, 2, 3)}
        assert [{report["client"]: report["weight"] for report in line["cohort"]} for line in lines] == [held] * ROUNDS
        assert [line["test"]["examples"] for line in lines] == [images * 3 // 10] * ROUNDS
