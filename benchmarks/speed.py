"""Seconds a round of FedLens and its peers on the same work, in interleaved bursts of one run.

    .venv/bin/python benchmarks/speed.py lenet
    .venv/bin/python benchmarks/speed.py cnn --contenders fedlens bare pfl-2 --repetitions 9 --rounds 3
    .venv/bin/python benchmarks/speed.py lenet --contenders fedlens --before COMMIT
    python benchmarks/speed.py cifar --device cuda --at-once --contenders fedlens fedlens-workers-4 pfl pfl-4 pfl-8
    python benchmarks/speed.py resnet18 --device cuda --contenders fedlens-workers-4 flower-2 flower-6

Contenders: fedlens, with K clients trained together (fedlens-vectorized-K) or N workers (fedlens-workers-N), or both in
this order; bare; pfl, or its N processes (pfl-N); flower with one client a core, or N at once that share cores and GPU
(flower-N); flower-quick-start; blazefl with N processes (blazefl-N) or threads (blazefl-threads-N).

Every contender starts alone, trains its warm-up rounds and is frozen. Then, repetition after repetition, each one
trains a burst of rounds while all others are frozen; who begins moves on by one each time. A ratio is taken within a
repetition (median of a burst over median of the other's burst), and its median over the repetitions is reported: the
machine's mood, which changes from minute to minute, cancels out.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import machine
from contender import Contender, command, known
from rich.console import Console
from rich.table import Table

sys.path += [str(Path(__file__).parent / "peers"), str(Path(__file__).parents[1] / "tools")]
from final_models import unpack
from workload import WORKLOADS, Workload

CONTENDERS = ("fedlens", "bare", "pfl", "pfl-2", "flower", "flower-quick-start")
"""By default."""


def ratios(one: Contender, other: Contender) -> list[float]:
    """Seconds of `one` over seconds of `other`, repetition by repetition."""
    return [median(mine) / median(theirs) for mine, theirs in zip(one.bursts, other.bursts, strict=True)]


def check(contender: Contender, workload: Workload) -> None:
    """Every round has the same number of gradient steps, and the loss falls: it is the same work, and it is done."""
    wrong = {done.steps for done in contender.rounds} - {workload.steps}
    if wrong:
        raise SystemExit(f"{contender.name} took {wrong} steps a round instead of {workload.steps}")
    first, last = contender.rounds[0].loss, contender.rounds[-1].loss
    if not last < first:
        raise SystemExit(
            f"{contender.name} does not learn: loss {first:.4f} in the first round, {last:.4f} in the last"
        )


def start(contenders: list[Contender], running: ExitStack, warm_up: int, *, at_once: bool) -> dict[str, float]:
    """Start all, and let each train its first round and its warm-up. Gives the seconds until the first round was over,
    of those that came so far. `at_once`: all start together, and the seconds are counted from there."""
    began, taken = time.perf_counter(), {}
    for contender in contenders if at_once else ():
        begin(contender, running)
    for contender in contenders:
        if not at_once:
            began = time.perf_counter()
            begin(contender, running)
        try:
            contender.burst(1)
            seconds = time.perf_counter() - began
            contender.burst(warm_up)
            taken[contender.name] = seconds
        except SystemExit as error:
            print(f"left out: {error}", file=sys.stderr)
    return taken


def begin(contender: Contender, running: ExitStack) -> None:
    contender.start()
    running.callback(contender.close)


def compete(contenders: list[Contender], repetitions: int, rounds: int) -> None:
    """All bursts, in turn."""
    for repetition in range(repetitions):
        turn = repetition % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            contender.bursts.append([done.seconds for done in contender.burst(rounds)])


def figures(contenders: list[Contender], start_up: dict[str, float]) -> dict[str, Any]:
    """What goes into the result file; `ratio` is to the first contender: its seconds over this one's."""
    return {
        contender.name: {
            "seconds_a_round": median(map(median, contender.bursts)),
            "ratio": median(ratios(contenders[0], contender)),
            "ratios": ratios(contenders[0], contender),
            "start_up_s": start_up[contender.name],
            "loss": [contender.rounds[0].loss, contender.rounds[-1].loss],
            "bursts": contender.bursts,
            "versions": contender.versions,
        }
        for contender in contenders
    }


def table(workload: Workload, results: dict[str, Any]) -> Table:
    columns = ("contender", "s a round", "rounds a minute", "ratio", "lowest – highest", "first round after", "loss")
    below = f"ratio: seconds of {next(iter(results))} over a contender's"
    shown = Table(*columns, title=workload.name, caption=below)
    for name, row in results.items():
        spread = f"{min(row['ratios']):.2f} – {max(row['ratios']):.2f}"
        loss = "{:.3f} → {:.3f}".format(*row["loss"])
        seconds, start_up = row["seconds_a_round"], f"{row['start_up_s']:.1f} s"
        shown.add_row(name, f"{seconds:.3f}", f"{60 / seconds:.1f}", f"{row['ratio']:.2f}", spread, start_up, loss)
    return shown


def arguments() -> Namespace:
    parser = machine.parser(__doc__)
    parser.add_argument("workload", choices=WORKLOADS, nargs="?", default="lenet")
    parser.add_argument(
        "--contenders", nargs="+", type=known, default=CONTENDERS, help="the first is compared with all"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of every contender")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of every FedLens contender")
    parser.add_argument(
        "--at-once", action="store_true", help="all start at the same time: sooner, but not as if alone"
    )
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5, help="rounds a burst")
    parser.add_argument("--warm-up", type=int, default=2, help="rounds before the first burst")
    parser.add_argument("--save-as", metavar="NAME", help="of the figures' file; default: speed-WORKLOAD")
    parser.add_argument("--before", metavar="COMMIT", help="one more contender: FedLens as it was then")
    options = parser.parse_args()
    if options.small:
        options.workload, options.contenders, options.device = "small", ["fedlens", "bare"], "cpu"
        options.repetitions, options.rounds, options.warm_up = 1, 1, 1
    machine.need_gpu(parser, options.device)
    return options


def contender(name: str, options: Namespace, source: Path | None = None) -> Contender:
    """`source`: folder of another FedLens, which is called "before"."""
    settings = options.set if name.startswith("fedlens") else []
    words = [*command(name, options.workload, options.device), *settings]
    return Contender("before" if source else name, words, source)


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("speed.py was stopped"))  # frozen contenders would stay for ever
    workload, before = WORKLOADS[options.workload], machine.facts(options.device)
    contenders = [contender(name, options) for name in options.contenders]
    with ExitStack() as running:
        if options.before:
            source = unpack(options.before, Path(running.enter_context(tempfile.TemporaryDirectory())))
            contenders.append(contender("fedlens", options, source))
        start_up = start(contenders, running, options.warm_up, at_once=options.at_once)
        for one in contenders:
            running.callback(one.hang_up)  # all of them, before one after the other is waited for
        ready = [one for one in contenders if one.name in start_up]
        if not ready:
            raise SystemExit("no contender came to the start")
        compete(ready, options.repetitions, options.rounds)
    for one in ready:
        check(one, workload)
    results = figures(ready, start_up)
    Console(width=140).print(table(workload, results))
    gpu, then = "-gpu" if options.device == "cuda" else "", "-before" if options.before else ""
    name = (options.save_as or f"speed-{workload.name}") + gpu + then
    print(machine.save(name, before, {"contenders": results}, small=workload.least))
    if len(ready) < len(contenders):
        raise SystemExit("not all contenders came to the start")


if __name__ == "__main__":
    main()
