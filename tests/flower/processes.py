"""A federation of real processes: client folders, `python server.py`, `python client.py`, and faults to give them.

Everything that waits has a time limit, so what hangs fails. Everything that was started ends with the federation.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import fedlens
from fedlens.cli.main import app
from fedlens.tracking.metrics import read_metrics

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
"""Seconds within which anything must have happened."""

SETTINGS = (
    "model.name=lenet",
    "federated.num_rounds=6",
    "federated.batch_size=16",
    "federated.evaluate_every=0",
    "federated.evaluate_clients_every=0",
    "optimizer.lr=0.04",
    "optimizer.keep=true",  # so that what clients keep must go on with them, too
    "tracking.tensorboard=false",
    "tracking.report=false",
)
TOLERANCE = 1e-5

State = dict[str, torch.Tensor]
T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """What `condition` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.01)
    return found


def command(*arguments: str) -> None:
    """`fedlens` with these arguments, which has to work."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """A process that was started in a group of its own, and what it has said."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=log.parent, start_new_session=True
            )
        self.pid = self._process.pid

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """The first place where `pattern` is said; fails when the process ends without."""

        def found() -> re.Match[str] | None:
            running = self.running
            match = re.search(pattern, self.said)
            assert match or running, f"ended before it said {pattern!r}:\n{self.said}"
            return match

        with self._quoted():
            return until(found, pattern, seconds)

    @contextmanager
    def _quoted(self) -> Iterator[None]:
        """What fails within is told together with what this program has said."""
        try:
            yield
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.name} says:\n{self.said}") from None

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def ends(self, seconds: float = PATIENCE) -> int:
        """Its exit status."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.log.name} did not end in {seconds:g} s:\n{self.said}") from None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, to this process alone."""
        self._process.kill()
        self._process.wait()

    def child(self, words: str) -> psutil.Process:
        """Its running child whose command line has `words` in it."""

        def found() -> psutil.Process | None:
            for child in psutil.Process(self.pid).children():
                with suppress(psutil.Error):
                    if words in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                        return child
            return None

        return until(found, f"a child of {self.log.name} with {words}")

    @property
    def children(self) -> list[psutil.Process]:
        """What it has started, and what that has."""
        return psutil.Process(self.pid).children(recursive=True)

    def end(self) -> None:
        """End it, and whatever it started."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children(recursive=True):
                child.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # also what outlived it
        self._process.wait()


class Server(Program):
    """`logs`: where its run's folder appears."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str], logs: Path) -> None:
        super().__init__(command, log, environment)
        self._logs = logs

    @property
    def folder(self) -> Path:
        with self._quoted():
            return until(lambda: next(self._logs.glob("*/config.yaml"), None), "its run folder").parent

    @property
    def lines(self) -> list[dict]:
        """What it has written of its rounds so far."""
        return read_metrics(self.folder / "metrics.jsonl")

    def round(self, number: int) -> None:
        """Wait until that round is done; fails when the server ends without."""

        def done() -> bool:
            running = self.running
            here = len(self.lines) >= number
            assert here or running, f"ended before round {number}"
            return here

        with self._quoted():
            until(done, f"round {number}")

    @property
    def model(self) -> State:
        return load_file(self.folder / "model" / "model.safetensors")

    @property
    def superlink(self) -> psutil.Process:
        return self.child("superlink_process")

    def ready(self, count: int) -> None:
        self.wait_for(rf"clients +{count}, holding")


class Client(Program):
    def __init__(self, command: list[str], log: Path, environment: dict[str, str], state: Path) -> None:
        super().__init__(command, log, environment)
        self.state = state

    @property
    def trainer(self) -> psutil.Process:
        return self.child("spawn_main")

    def stopped_at_work(self) -> psutil.Process:
        """Its trainer, stopped, with a task that the client has accepted and not answered."""
        trainer = self.trainer
        trainer.suspend()
        while True:
            with self._quoted():
                task = until(lambda: next((self.state / "journal").glob("*.task"), None), "a task")
            time.sleep(0.3)  # an answer that was on its way when the trainer stopped is away by then
            if task.exists():
                return trainer


class Federation:
    """Processes below one folder, which serve and join at one port."""

    def __init__(self, base: Path, clients: int = 2) -> None:
        self.base, self.port = base, free_port()
        self.data = base / "data"
        self._started: list[Program] = []
        self._count = 0
        self._environment = {**os.environ, "XDG_STATE_HOME": str(base / "state"), "OMP_NUM_THREADS": "1"}
        command("data", "sample", "--clients", str(max(clients, 2)), "--images", "60", "--out", str(self.data))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def certificates(self, clients: int, name: str = "certs", hosts: str = "localhost") -> Path:
        """A new folder of `fedlens certs create`."""
        folder = self.base / name
        command("certs", "create", "--hosts", hosts, "--clients", str(clients), "--out", str(folder))
        return folder

    def server(
        self,
        *arguments: str,
        settings: tuple[str, ...] = SETTINGS,
        within: tuple[str, ...] = (),
        logs: Path | None = None,
    ) -> Server:
        """A new run. `arguments` count over `settings`; `within`: what the command begins with; `logs`: where its
        folder is made, by default a folder of its own."""
        logs = logs or self.base / f"logs{self._count}"
        place = (f"data.path={self.data}", f"tracking.dir={logs}", f"server.address={self.address}")
        return self._server(logs, *settings, *place, *arguments, within=within)

    def resumed(self, killed: Server) -> Server:
        return self._server(killed.folder.parent, "--resume", str(killed.folder))

    def client(
        self,
        number: int,
        *arguments: str,
        state: Path | None = None,
        address: str | None = None,
        within: tuple[str, ...] = (),
        data: Path | None = None,
    ) -> Client:
        """The client of folder `number`, from 1, or of other `data`; the same state folder every time unless `state`
        says another."""
        state = state or self.base / f"state{number}"
        data = data or self.data / f"client{number}"
        command = [*within, sys.executable, str(ROOT / "client.py"), "--data_dir", str(data)]
        command += ["--partition_id", str(number - 1), "--server_address", address or self.address]
        command += ["--state_dir", str(state), "threads=1", *arguments]
        client = Client(command, self._log(f"client{number}"), self._environment, state)
        self._started.append(client)
        return client

    def end(self, *but: Program) -> None:
        """End all that was started, `but` those."""
        for program in self._started:
            if program not in but:
                program.end()
        self._started = [*but]

    def _server(self, logs: Path, *arguments: str, within: tuple[str, ...] = ()) -> Server:
        command = [*within, sys.executable, str(ROOT / "server.py"), *arguments]
        server = Server(command, self._log("server"), self._environment, logs)
        self._started.append(server)
        return server

    def _log(self, who: str) -> Path:
        self._count += 1
        return self.base / f"{self._count:02}-{who}.log"


@contextmanager
def federation(base: Path, clients: int = 2) -> Iterator[Federation]:
    made = Federation(base, clients)
    try:
        yield made
    finally:
        made.end()


def locally(data: Path, folder: Path, *overrides: str, settings: tuple[str, ...] = SETTINGS) -> State:
    """The final model of the same run in worker processes of this machine."""
    place = (f"data.path={data}", f"tracking.dir={folder}", "runtime.workers=1")
    return load_file(fedlens.run(None, *settings, *place, *overrides, show=False).folder / "model/model.safetensors")


def difference(one: State, other: State) -> float:
    """The largest, over all tensors."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
