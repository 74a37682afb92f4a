"""One contender of `speed.py`: a process that trains rounds when asked and is frozen while others have their turn."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from stock_flower import free_port

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Round:
    """What a contender says of a round: seconds, mean training loss, gradient steps of the whole cohort."""

    round: int
    seconds: float
    loss: float
    steps: int


@dataclass
class Contender:
    """A contender. `source`: folder of the FedLens package to use, if not this one's; `rounds`: all that it trained;
    `bursts`: seconds of the measured ones."""

    name: str
    command: list[str]
    source: Path | None = None
    rounds: list[Round] = field(default_factory=list)
    bursts: list[list[float]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Run the command; `burst` asks it for its first round."""
        self._known: set[psutil.Process] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="contender-")
        self._log = Path(self._folder.name) / "stderr.txt"
        folders = [HERE, HERE / "peers", *([self.source] if self.source else []), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)).removesuffix(os.pathsep)}
        pipe = subprocess.PIPE
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=log, text=True, bufsize=1, env=environment
            )

    def burst(self, rounds: int) -> list[Round]:
        """Wake up, train so many rounds, freeze again."""
        self._thaw()
        done = self._ask(rounds)
        self._freeze()
        return done

    def hang_up(self) -> list[psutil.Process]:
        """Wake up and be told that there are no more requests; gives its processes."""
        tree = self._thaw()
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        return tree

    def close(self) -> None:
        """Let it end by itself; what is left after half a minute is killed."""
        tree = self.hang_up()
        _, alive = psutil.wait_procs(tree, timeout=30)
        for process in alive:
            process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _ask(self, rounds: int) -> list[Round]:
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):  # it has ended: then there is no answer
            self._process.stdin.write(f"go {rounds}\n")
            self._process.stdin.flush()
        done: list[Round] = []
        while len(done) < rounds:
            line = self._process.stdout.readline()
            if not line:
                raise SystemExit(f"{self.name} ended early:\n{self._last_words()}")
            message: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
            self.versions |= message.get("versions", {})
            if "round" in message:
                done.append(Round(**message))
        self.rounds += done
        return done

    def _freeze(self) -> None:
        self._known |= set(self._tree())
        for process in self._known:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def _thaw(self) -> list[psutil.Process]:
        """Also what is left of a contender whose first process has ended meanwhile."""
        self._known |= set(self._tree())
        for process in self._known:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        return list(self._known)

    def _tree(self) -> list[psutil.Process]:
        """The process and its descendants; nothing once it has ended."""
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _last_words(self) -> str:
        return self._log.read_text()[-3000:]


def python(peer: str) -> str:
    """The interpreter of a peer's environment: PFL_PYTHON, FLOWER_PYTHON or BLAZEFL_PYTHON, or what `setup.sh` made."""
    variable = f"{peer.upper()}_PYTHON"
    found = os.environ.get(variable) or str(HERE / f".venv-{peer}" / "bin" / "python")
    if not Path(found).exists():
        raise SystemExit(f"{found}: no such interpreter; run benchmarks/setup.sh {peer}, or name one in {variable}")
    return found


def fedlens(vectorize: str | None = None, workers: str | None = None) -> list[str]:
    chosen = {"runtime.vectorize": vectorize, "runtime.workers": workers}
    return [sys.executable, "fedlens_fedavg.py", *(f"{key}={value}" for key, value in chosen.items() if value)]


def bare() -> list[str]:
    return [sys.executable, "bare.py"]


def pfl(processes: str | None = None) -> list[str]:
    several = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port())]
    return [python("pfl"), *(several if processes else []), "pfl_start.py"]


def flower(clients: str | None = None, style: str | None = None) -> list[str]:
    return [python("flower"), "flower_fedavg.py", style or "tuned", *([clients] if clients else [])]


def blazefl(number: str, mode: str | None = None) -> list[str]:
    return [python("blazefl"), "blazefl_fedavg.py", mode or "processes", number]


SHAPES: dict[str, Callable[..., list[str]]] = {
    r"fedlens(-vectorized-(?P<vectorize>\d+))?(-workers-(?P<workers>\d+))?": fedlens,
    r"bare": bare,
    r"pfl(-(?P<processes>\d+))?": pfl,
    r"flower(-(?P<clients>\d+)|-(?P<style>quick-start))?": flower,
    r"blazefl(-(?P<mode>threads))?-(?P<number>\d+)": blazefl,
}
"""How contenders are called, and what gives their interpreter, script and own arguments."""

HELP = "fedlens[-vectorized-K][-workers-N], bare, pfl[-N], flower[-N], flower-quick-start or blazefl[-threads]-N"


def known(name: str) -> str:
    """A name of a contender, as an argument of the command line."""
    if not any(re.fullmatch(shape, name) for shape in SHAPES):
        raise ArgumentTypeError(f"{name!r} is no contender; there are {HELP}")
    return name


def command(name: str, workload: str, device: str) -> list[str]:
    """The command line of a contender."""
    made, found = next((made, found) for shape, made in SHAPES.items() if (found := re.fullmatch(shape, name)))
    words = made(**found.groupdict())
    script = next(place for place, word in enumerate(words) if word.endswith(".py"))
    return [*words[:script], str(HERE / "peers" / words[script]), workload, device, *words[script + 1 :]]
