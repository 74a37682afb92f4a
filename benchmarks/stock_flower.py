"""Stock Flower: a SuperLink, two SuperNodes and `flwr run` of peers/stock_app, asked for rounds in turns."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
APP = Path(__file__).parent / "peers" / "stock_app"
LONGEST_TURN = 900.0


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class StockFlower:
    """A running federation of two nodes; use it in a `with` block.

    work      what peers/stock_app does: tiny, large or mobilenetv3
    database  the SuperLink keeps its state on disk
    data      a folder with client1 and client2, where the work is training
    """

    def __init__(self, work: str, folder: Path, *, database: bool = False, data: Path | None = None) -> None:
        self._work, self._folder, self._database, self._data = work, folder, database, data
        self._turn = 0
        self._processes: list[psutil.Popen] = []
        self.losses: list[float] = []

    def __enter__(self) -> StockFlower:
        self._folder.mkdir(parents=True)
        control, fleet = free_port(), free_port()
        (self._folder / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{control}"\ninsecure = true\n'
        )
        kept = ["--database", str(self._folder / "state.db")] if self._database else []
        self._start(
            *("flower-superlink", "--insecure", "--disable-runtime-dependency-installation", *kept),
            *("--host", "127.0.0.1", "--port", str(control), "--fleet-api-address", f"127.0.0.1:{fleet}"),
        )
        for partition in range(2):
            data = f" data-dir='{self._data / f'client{partition + 1}'}'" if self._data else ""
            self._start(
                *("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{fleet}", "--port", str(free_port())),
                *("--node-config", f"partition-id={partition}{data}"),
            )
        settings = f"work='{self._work}' folder='{self._folder}'"
        command = [str(BIN / "flwr"), "run", str(APP), "here", "--run-config", settings]
        for _ in range(60):  # until the SuperLink listens
            started = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
            if started.returncode == 0:
                return self
            time.sleep(1)
        self.__exit__()
        raise SystemExit(f"flwr run failed:\n{started.stdout}{started.stderr}")

    def __exit__(self, *_: object) -> None:
        """End the run and all processes."""
        self._ask(0)
        time.sleep(2)
        tree = [child for process in self._processes for child in (*process.children(recursive=True), process)]
        for process in tree:
            with suppress(psutil.NoSuchProcess):  # it has ended with its parent
                process.terminate()
        for process in psutil.wait_procs(tree, timeout=20)[1]:
            process.kill()
        for process in self._processes:
            process.wait(timeout=20)

    def burst(self, rounds: int) -> list[float]:
        """Seconds of each of so many rounds."""
        done = self._folder / f"done-{self._turn}"
        self._ask(rounds)
        until = time.monotonic() + LONGEST_TURN
        while not done.exists():
            if time.monotonic() > until:
                raise SystemExit(f"Flower did not finish its rounds; its logs are in {self._folder}")
            time.sleep(0.01)
        said = json.loads(done.read_text())
        self.losses += said["loss"]
        return list(said["seconds"])

    def _ask(self, rounds: int) -> None:
        part = self._folder / "asked"
        part.write_text(str(rounds))
        part.rename(self._folder / f"turn-{self._turn}")
        self._turn += 1

    def _start(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}-{len(self._processes)}.log").open("wb") as log:
            command = [str(BIN / name), *arguments]
            self._processes.append(psutil.Popen(command, stdout=log, stderr=log, env=self._environment))

    @property
    def _environment(self) -> Mapping[str, str]:
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(self._folder)}
        return {**os.environ, **quiet, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
