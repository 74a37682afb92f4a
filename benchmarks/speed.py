"""Seconds a round of FedLens and its peers on the same work, in interleaved bursts of one run.

    .venv/bin/python benchmarks/speed.py lenet
    .venv/bin/python benchmarks/speed.py cnn --contenders fedlens bare pfl-2 --repetitions 9 --rounds 3
    .venv/bin/python benchmarks/speed.py lenet --contenders fedlens --before COMMIT

Every contender starts alone, trains its warm-up rounds and is frozen. Then, repetition after repetition, each one
trains a burst of rounds while all others are frozen; who begins moves on by one each time. A ratio is taken within a
repetition (median of a burst over median of the other's burst), and its median over the repetitions is reported: the
machine's mood, which changes from minute to minute, cancels out.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import machine
from contender import CONTENDERS, Contender, command
from rich.console import Console
from rich.table import Table

sys.path += [str(Path(__file__).parent / "peers"), str(Path(__file__).parents[1] / "tools")]
from final_models import unpack
from workload import WORKLOADS, Workload


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
    first = next(iter(results))
    shown = Table(
        "contender", "s a round", f"{first} / it", "lowest – highest", "first round after", "loss", title=workload.name
    )
    for name, row in results.items():
        spread = f"{min(row['ratios']):.2f} – {max(row['ratios']):.2f}"
        loss = "{:.3f} → {:.3f}".format(*row["loss"])
        shown.add_row(
            name, f"{row['seconds_a_round']:.3f}", f"{row['ratio']:.2f}", spread, f"{row['start_up_s']:.1f} s", loss
        )
    return shown


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("workload", choices=WORKLOADS, nargs="?", default="lenet")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS, help="the first is compared with all"
    )
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5, help="rounds a burst")
    parser.add_argument("--warm-up", type=int, default=2, help="rounds before the first burst")
    parser.add_argument("--before", metavar="COMMIT", help="one more contender: FedLens as it was then")
    options = parser.parse_args()
    if options.small:
        options.workload, options.contenders = "small", ["fedlens", "bare"]
        options.repetitions, options.rounds, options.warm_up = 1, 1, 1
    workload, before = WORKLOADS[options.workload], machine.facts()
    contenders = [Contender(name, command(name, workload.name)) for name in options.contenders]
    start_up: dict[str, float] = {}
    with ExitStack() as running:
        if options.before:
            source = unpack(options.before, Path(running.enter_context(tempfile.TemporaryDirectory())))
            contenders.append(Contender("before", command("fedlens", workload.name), source))
        for contender in contenders:
            started = time.perf_counter()
            contender.start()
            running.callback(contender.close)
            contender.burst(1)
            start_up[contender.name] = time.perf_counter() - started
            contender.burst(options.warm_up)
        compete(contenders, options.repetitions, options.rounds)
    for contender in contenders:
        check(contender, workload)
    results = figures(contenders, start_up)
    Console(width=120).print(table(workload, results))
    name = f"speed-{workload.name}" + ("-before" if options.before else "")
    print(machine.save(name, before, {"contenders": results}, small=workload.sample))


if __name__ == "__main__":
    main()
