"""A federation of three clients over fifty rounds, of whose processes one is killed every few rounds.

    .venv/bin/python benchmarks/soak.py

The server has certificates. In turn, and at a random moment of a round, a client, a client's trainer, the SuperLink and
the server are killed with SIGKILL; the client is started again, the server goes on with `--resume`, and the rest is
theirs to mend. At the end all rounds have to be done, each once, with no client counted twice in any, with no update
missing that is not said to be, and with a server that needs hardly more memory than at the tenth round.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import machine
import numpy as np
import psutil

sys.path.append(str(Path(__file__).parents[1]))
from tests.flower.processes import Federation, Server, federation

CLIENTS = 3
IMAGES = 48
"""Training images of each client: 60, less validation and test."""
KINDS = ("client", "trainer", "SuperLink", "server")
WARM = 10
"""Rounds after which the server's memory is measured first."""
SETTINGS = (
    *("model.name=lenet", "optimizer.lr=0.01", "optimizer.keep=true", "federated.batch_size=16"),
    *(f"federated.min_fit_clients={CLIENTS}", "federated.evaluate_every=5", "federated.evaluate_clients_every=0"),
    *("tracking.tensorboard=false", "tracking.report=false"),
)


class Soak:
    """The processes, and what is done to them."""

    def __init__(self, place: Federation, rounds: int, seed: int) -> None:
        self._place = place
        self._rng = np.random.default_rng(seed)
        certs = place.certificates(CLIENTS)
        self._certs = [("--certs", str(certs / f"clients/client{number}")) for number in range(1, CLIENTS + 1)]
        own = ("--certs", str(certs), f"federated.num_rounds={rounds}")
        self.server: Server = place.server(*own, settings=SETTINGS)
        self.clients = [self._joined(index) for index in range(CLIENTS)]

    def strike(self, kind: str) -> str:
        """Kill one of that kind at a random moment; gives its name."""
        time.sleep(self._rng.uniform(0, 1))
        index = int(self._rng.integers(CLIENTS))
        if kind == "client":
            self.clients[index].kill()
            self.clients[index] = self._joined(index)
        elif kind == "trainer":
            self.clients[index].trainer.kill()
        elif kind == "SuperLink":
            self.server.superlink.kill()
        else:
            self.server.kill()
            self.server = self._place.resumed(self.server)
        return kind if kind in ("SuperLink", "server") else f"{kind} {index + 1}"

    def _joined(self, index: int) -> Any:
        return self._place.client(index + 1, *self._certs[index])


def soak(place: Federation, rounds: int, kills: int, seed: int) -> dict[str, Any]:
    """Figures of a run that ended well.

    Raises:
        AssertionError: it did not.
    """
    soaked = Soak(place, rounds, seed)
    moments = {rounds * number // (kills + 1): KINDS[(number - 1) % len(KINDS)] for number in range(1, kills + 1)}
    struck, memory, seconds, began = [], [], [], time.monotonic()
    for number in range(1, rounds + 1):
        soaked.server.round(number)
        seconds.append(time.monotonic() - began)
        memory.append((soaked.server.pid, rss_mib(soaked.server.pid)))
        began = time.monotonic()
        if number in moments:
            struck.append({"after_round": number, "killed": soaked.strike(moments[number])})
    for program in (soaked.server, *soaked.clients):
        assert program.ends() == 0, program.said
        assert "Traceback" not in program.said, program.said
    return {
        "rounds": rounds,
        "kills": struck,
        "updates_lost": check_rounds(soaked.server.lines, rounds),
        "seconds_undisturbed": median(seconds[index] for index in range(1, rounds) if index not in moments),
        "seconds_after_kill": {kind: recovery(seconds, moments, kind) for kind in KINDS},
        **memory_figures(memory),
    }


def check_rounds(lines: list[dict[str, Any]], rounds: int) -> int:
    """How many updates were lost; every round is there once, and in it every client once, answering or failing."""
    assert [line["round"] for line in lines] == list(range(1, rounds + 1))
    for line in lines:
        answered = [report["client"] for report in line["cohort"]]
        failed = [failure["client"] for failure in line["failures"]]
        assert sorted(answered + failed) == [f"client{number}" for number in range(1, CLIENTS + 1)], line
        assert sum(report["weight"] for report in line["cohort"]) == IMAGES * len(answered), line
    return sum(len(line["failures"]) for line in lines)


def recovery(seconds: list[float], moments: dict[int, str], kind: str) -> float:
    """Median seconds of the rounds in which one of that kind was killed."""
    return median([seconds[number] for number, killed in moments.items() if killed == kind] or [0.0])


def memory_figures(memory: list[tuple[int, float]]) -> dict[str, float]:
    """The server's memory at the tenth and at the last round, whichever process it was, and over its longest life."""
    lives = {pid: [mib for owner, mib in memory if owner == pid] for pid, _ in memory}
    longest = max(lives.values(), key=len)
    warm, last = memory[min(WARM, len(memory)) - 1][1], memory[-1][1]
    figures = {"rss_mib_round_10": warm, "rss_mib_last_round": last, "rss_ratio": last / warm}
    begin = longest[min(WARM, len(longest)) // 2]
    return figures | {"longest_life_rounds": len(longest), "longest_life_rss_ratio": longest[-1] / begin}


def rss_mib(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss / 2**20)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--kills", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options, before = parser.parse_args(), machine.facts()
    if options.small:
        options.rounds, options.kills = 3, 1
    with tempfile.TemporaryDirectory(prefix="fedlens-soak-") as folder, federation(Path(folder), CLIENTS) as place:
        figures = soak(place, options.rounds, options.kills, options.seed)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    print(machine.save("soak", before, figures, small=options.small))
    if not figures["rss_ratio"] <= 1.1:
        raise SystemExit("the server's memory has grown by more than a tenth")


if __name__ == "__main__":
    main()
