"""Rounds between processes over gRPC: FedLens beside stock Flower 1.38, on this machine, with two clients.

    .venv/bin/python benchmarks/flower_rounds.py
    .venv/bin/python benchmarks/flower_rounds.py empty empty-database large

`empty` and `empty-database`: clients give ten numbers back; the SuperLink's state is in memory, or in a database.
`large`: the same with 100 MB. Here FedLens is its runtime in this process and two resident clients: the transport
alone. `half`: FedLens with 16 bits a number in both directions, beside FedLens without, 100 MB. `mobilenetv3`: ten
rounds of training on two folders of 200 pictures at 64 pixels, each side by its own commands. `memory`: what
`fedlens server` needs for a ResNet-50 and sixteen clients. `--small` leaves Flower out, and networks are small.

Flower runs peers/stock_app, a plain ClientApp and FedAvg.start, with its defaults. Both take turns, several times over;
a ratio is taken between turns that follow each other, and the median of the ratios is reported.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import machine
import psutil
import torch
from echo_sites import METRICS, reside
from fedlens_run import FEDLENS, QUIET, Line, spent
from rich.console import Console
from rich.table import Table
from stock_flower import StockFlower, free_port

from fedlens.aggregation.mean import WeightedMean
from fedlens.aggregation.norms import l2_norm
from fedlens.compression.half import Half
from fedlens.core.types import ClientResult, State, Task, TaskSettings
from fedlens.federation.rounds.synchronous import aggregate
from fedlens.flower.client_manager import Bounds
from fedlens.flower.messages import Setup
from fedlens.flower.own_superlink import OwnSuperLink
from fedlens.flower.runtime import FlowerRuntime
from fedlens.flower.superlink import SuperLink
from fedlens.tracking.metrics import read_metrics
from fedlens.training.screening import Expected, check_update, shapes_of
from fedlens.transforms.base import TransformChain

TINY = {"array0": torch.zeros(10)}
LARGE = {f"array{number}": torch.full((2_500_000,), float(number)) for number in range(10)}
ROUNDS_TRAINED = 10
PLAIN = TransformChain()
SITES = 16


class ResidentFedLens:
    """FedLens' runtime in this process, and two resident clients; use it in a `with` block."""

    def __init__(self, state: State, folder: Path, *, database: bool = False, chain: TransformChain = PLAIN) -> None:
        self._state, self._folder, self._database, self._chain = state, folder, database, chain
        self._round = 0
        self._expects = Expected(1, METRICS)

    def __enter__(self) -> ResidentFedLens:
        port = free_port()
        superlink = SuperLink("127.0.0.1", port, self._folder / "superlink", None, database=self._database)
        self._link = OwnSuperLink(superlink, None)
        context = multiprocessing.get_context("spawn")
        places = [
            (f"127.0.0.1:{port}", number, self._folder / f"client{number + 1}", self._chain) for number in range(2)
        ]
        self._clients = [context.Process(target=reside, args=place) for place in places]
        for client in self._clients:
            client.start()
        self._runtime = FlowerRuntime(
            self._link, "benchmark", deadline=600, rejoin=30, bounds=Bounds(1, 1), note=lambda _text: None
        )
        self._runtime.open(Setup("benchmark", {}, ("picture",), 28, 1), self._expected)
        self._runtime.clients(2)
        return self

    def __exit__(self, *_: object) -> None:
        self._runtime.finish("that was all")
        for client in self._clients:
            client.join()
        self._link.close()

    def burst(self, rounds: int) -> list[float]:
        """Seconds of each of so many rounds: send, receive, check, average."""
        return [self._timed() for _ in range(rounds)]

    def _timed(self) -> float:
        self._round += 1
        started = time.perf_counter()
        clients = [info.name for info in self._runtime.clients(2)]
        payload = self._chain.encode_model(self._state)
        norm = l2_norm(self._state.values())
        self._expects = Expected(
            1, METRICS, shapes_of(payload), {}, norm, check_payload=check_update, decode=self._decoded
        )
        self._runtime.submit([Task(name, self._round, "train", payload, TaskSettings(lr=0.01)) for name in clients])
        mean = WeightedMean()
        _, failures = aggregate(self._runtime.completed(), mean, self._decoded)
        total = mean.result()
        seconds = time.perf_counter() - started
        if total is None or failures:
            raise SystemExit(f"a client failed: {failures}")
        self._state = total.delta
        return seconds

    def _expected(self, _task: Task, _client: object) -> Expected:
        return self._expects

    def _decoded(self, result: ClientResult) -> ClientResult:
        return self._chain.decode(result, self._state)


def transport(work: str, state: State, folder: Path, options: Namespace, *, database: bool = False) -> dict[str, Any]:
    """Turns of both sides, empty rounds being quick with FedLens and slow with Flower."""
    if options.small:
        with ResidentFedLens(state, folder, database=database) as own:
            return {"fedlens_s": median(own.burst(2))}
    with (
        StockFlower(work, folder / "flower", database=database) as flower,
        ResidentFedLens(state, folder / "fedlens", database=database) as own,
    ):
        for side in (own, flower):
            side.burst(1)
        turns = [(own.burst(5), flower.burst(2)) for _ in range(options.repetitions)]
    return compared([median(mine) for mine, _ in turns], [median(theirs) for _, theirs in turns])


def halved(folder: Path, options: Namespace) -> dict[str, Any]:
    """Turns with and without `compression.name=half` in both directions; each turn has clients and a SuperLink of its
    own, because a process can talk to one SuperLink only."""
    state, repetitions = (TINY, 1) if options.small else (LARGE, options.repetitions)
    chains = {"half": TransformChain((Half(down=True),)), "plain": PLAIN}
    seconds: dict[str, list[float]] = {name: [] for name in chains}
    for turn in range(repetitions):
        for name, chain in chains.items():
            with ResidentFedLens(state, folder / f"{name}{turn}", chain=chain) as own:
                own.burst(1)
                seconds[name].append(median(own.burst(3)))
    ratios = [mine / whole for mine, whole in zip(seconds["half"], seconds["plain"], strict=True)]
    medians = {f"{name}_s": median(found) for name, found in seconds.items()}
    return {**medians, "ratio": median(ratios), "ratios": ratios}


def trained(folder: Path, options: Namespace) -> dict[str, Any]:
    """Ten rounds of MobileNetV3-small, from the first round's begin to the last one's end."""
    data = folder / "data"
    subprocess.run([str(FEDLENS), "data", "sample", "--clients", "2", "--out", str(data)], check=True)
    if options.small:
        return {"fedlens_s": by_commands(folder / "fedlens", data, "lenet")}
    turns = []
    for number in range(options.repetitions):
        mine = by_commands(folder / f"fedlens{number}", data, "mobilenetv3")
        with StockFlower("mobilenetv3", folder / f"flower{number}", data=data) as flower:
            turns.append((mine, sum(flower.burst(ROUNDS_TRAINED))))
            if not flower.losses[-1] < flower.losses[0]:
                raise SystemExit(f"Flower does not learn: {flower.losses}")
    return compared([mine for mine, _ in turns], [theirs for _, theirs in turns])


def by_commands(folder: Path, data: Path, network: str) -> float:
    """Seconds of ten rounds of `fedlens server` and two `fedlens client`."""
    with Commands(folder) as commands:
        commands.server(
            *(f"model.name={network}", f"federated.num_rounds={ROUNDS_TRAINED}", "data.image_size=64"),
            *("data.validation=0", "data.client_test=0", "federated.evaluate_every=0"),
            "federated.evaluate_clients_every=0",
        )
        for number in range(2):
            place = ["--data_dir", str(data / f"client{number + 1}"), "--partition_id", str(number)]
            commands.start(str(FEDLENS), "client", *place, "--server_address", commands.address)
        lines = commands.rounds(ROUNDS_TRAINED)
        losses = [line["train_loss"] for line in lines]
        if not losses[-1] < losses[0]:
            raise SystemExit(f"FedLens does not learn: {losses}")
        return sum(spent(line) for line in lines)


def memory(folder: Path, options: Namespace) -> dict[str, Any]:
    """Largest resident sets over three rounds, above what they are when the model is built and nobody has come: the
    coordinator's, and its SuperLink's. In models: parameters and buffers of a ResNet-50 in float32."""
    network, sites = ("lenet", 2) if options.small else ("resnet50", SITES)
    data = folder / "data"
    sample = ["data", "sample", "--clients", "2", "--images", "10", "--out", str(data)]
    subprocess.run([str(FEDLENS), *sample], check=True)
    with Commands(folder) as commands:
        server = commands.server(
            *(f"model.name={network}", "federated.num_rounds=9", f"federated.min_fit_clients={sites}"),
            *("federated.evaluate_every=0", "federated.evaluate_clients_every=0"),
            *(f"data.path={data}", "data.image_size=32"),
        )
        commands.wait_for(f"0 of {sites} ready")
        (superlink,) = (child for child in server.children() if "superlink_process" in " ".join(child.cmdline()))
        both = {"coordinator": server, "superlink": superlink}
        idle = {name: process.memory_info().rss for name, process in both.items()}
        commands.start(sys.executable, str(Path(__file__).with_name("echo_sites.py")), commands.address, str(sites))
        peak = dict(idle)
        while len(commands.done()) < 3:
            for name, process in both.items():
                peak[name] = max(peak[name], process.memory_info().rss)
            time.sleep(0.002)
        saved = next(folder.glob("logs/*/checkpoints/*/state.safetensors")).stat().st_size
    grown = {f"{name}_models": (peak[name] - idle[name]) / saved for name in both}
    mib = {f"{name}_idle_mib": size / 2**20 for name, size in idle.items()}
    return {"model_mib": saved / 2**20, **mib, **grown}


class Commands:
    """`fedlens server` and what joins it, in processes of their own; use it in a `with` block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[psutil.Popen] = []
        self.address = f"127.0.0.1:{free_port()}"

    def __enter__(self) -> Commands:
        self._folder.mkdir(exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        tree = [child for process in self._processes for child in (*process.children(recursive=True), process)]
        for process in tree:
            process.kill()
        psutil.wait_procs(tree)

    def server(self, *overrides: str) -> psutil.Popen:
        """The first process: what `said` gives is its."""
        place = (f"server.address={self.address}", f"tracking.dir={self._folder / 'logs'}")
        return self.start(str(FEDLENS), "server", *QUIET, *place, *overrides)

    def start(self, *command: str) -> psutil.Popen:
        environment = {**os.environ, "XDG_STATE_HOME": str(self._folder / "state")}
        with (self._folder / f"{len(self._processes)}.log").open("wb") as log:
            self._processes.append(psutil.Popen(command, stdout=log, stderr=log, env=environment))
        return self._processes[-1]

    def said(self) -> str:
        """What the server has printed.

        Raises:
            SystemExit: a process has failed.
        """
        for number, process in enumerate(self._processes):
            if process.poll() not in (None, 0):
                raise SystemExit((self._folder / f"{number}.log").read_text()[-3000:])
        return (self._folder / "0.log").read_text()

    def done(self) -> Sequence[Line]:
        """The rounds that the server has finished."""
        self.said()
        return [line for metrics in self._folder.glob("logs/*/metrics.jsonl") for line in read_metrics(metrics)]

    def rounds(self, wanted: int) -> Sequence[Line]:
        """The first so many rounds, once they are done."""
        while len(self.done()) < wanted:
            time.sleep(0.05)
        return self.done()[:wanted]

    def wait_for(self, text: str) -> None:
        """Until the server prints `text`."""
        while text not in self.said():
            time.sleep(0.005)


def compared(mine: list[float], theirs: list[float]) -> dict[str, Any]:
    """Medians, and the ratio turn by turn."""
    ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
    return {"fedlens_s": median(mine), "flower_s": median(theirs), "ratio": median(ratios), "ratios": ratios}


MEASURES: dict[str, Callable[[Path, Namespace], dict[str, Any]]] = {
    "empty": partial(transport, "tiny", TINY),
    "empty-database": partial(transport, "tiny", TINY, database=True),
    "large": partial(transport, "large", LARGE),
    "half": halved,
    "mobilenetv3": trained,
    "memory": memory,
}
ASKED = {"empty": 0.1, "empty-database": 0.2, "large": 0.5, "mobilenetv3": 1 / 3}


def table(results: dict[str, Any]) -> Table:
    shown = Table("measure", "FedLens", "Flower", "FedLens / Flower", "lowest – highest", "asked")
    for name in (name for name in ASKED if name in results):
        row = results[name]
        spread = f"{min(row['ratios']):.3f} – {max(row['ratios']):.3f}"
        seconds = [f"{row[f'{side}_s']:.2f} s" for side in ("fedlens", "flower")]
        shown.add_row(name, *seconds, f"{row['ratio']:.3f}", spread, f"≤ {ASKED[name]:.2f}")
    if "half" in results:
        row = results["half"]
        spread = f"{min(row['ratios']):.3f} – {max(row['ratios']):.3f}"
        shown.add_row(
            "half / plain",
            f"{row['half_s']:.2f} s / {row['plain_s']:.2f} s",
            "",
            f"{row['ratio']:.3f}",
            spread,
            "≤ 0.60",
        )
    if "memory" in results:
        row = results["memory"]
        grown = f"{row['coordinator_models']:.1f} models"
        shown.add_row("memory", grown, "", "", f"SuperLink {row['superlink_models']:.1f}", "≤ 4")
    return shown


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("measures", nargs="*", metavar=f"{{{','.join(MEASURES)}}}", help="default: all")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    unknown = set(options.measures) - MEASURES.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(MEASURES)}")
    results: dict[str, Any] = {}
    for name in options.measures or MEASURES:
        before = machine.facts()
        with tempfile.TemporaryDirectory(prefix="flower-rounds-") as folder:
            results[name] = MEASURES[name](Path(folder), options)
        print(machine.save(f"flower-rounds-{name}", before, results[name], small=options.small), flush=True)
    if options.small:
        print(json.dumps(results, indent=2))
        return
    Console(width=120).print(table(results))


if __name__ == "__main__":
    main()
