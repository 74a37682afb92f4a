"""One contender of `speed.py`: a process that trains rounds when asked and is frozen while others have their turn."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

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
        self._folder = tempfile.TemporaryDirectory(prefix="contender-")
        self._log = Path(self._folder.name) / "stderr.txt"
        folders = [HERE, HERE / "peers", *([self.source] if self.source else [])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
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

    def close(self) -> None:
        """Let it end by itself; what is left after half a minute is killed."""
        tree = self._thaw()
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        _, alive = psutil.wait_procs(tree, timeout=30)
        for process in alive:
            process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _ask(self, rounds: int) -> list[Round]:
        assert self._process.stdin
        assert self._process.stdout
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
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def _thaw(self) -> list[psutil.Process]:
        tree = self._tree()
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        return tree

    def _tree(self) -> list[psutil.Process]:
        """The process and its descendants; nothing once it has ended."""
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _last_words(self) -> str:
        return self._log.read_text()[-3000:]


def command(name: str, workload: str) -> list[str]:
    """The command line of a contender."""
    pfl, flower = HERE / ".venv-pfl" / "bin", HERE / ".venv-flower" / "bin" / "python"
    own, peers = HERE.parent / ".venv" / "bin" / "python", HERE / "peers"
    commands = {
        "fedlens": [own, peers / "fedlens_fedavg.py", workload],
        "bare": [own, peers / "bare.py", workload],
        "pfl": [pfl / "python", peers / "pfl_fedavg.py", workload],
        "pfl-2": [pfl / "torchrun", "--nproc-per-node", "2", peers / "pfl_fedavg.py", workload],
        "flower": [flower, peers / "flower_fedavg.py", workload, "tuned"],
        "flower-quick-start": [flower, peers / "flower_fedavg.py", workload, "quick-start"],
    }
    return [str(part) for part in commands[name]]


CONTENDERS = ("fedlens", "bare", "pfl", "pfl-2", "flower", "flower-quick-start")
