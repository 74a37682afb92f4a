"""What a round of each strategy costs beside FedAvg's, on LeNet, in interleaved bursts of one run.

    .venv/bin/python benchmarks/strategies.py
    .venv/bin/python benchmarks/strategies.py --strategies fedprox scaffold --repetitions 15

The work is that of `speed.py lenet`: ten clients a round, 600 images each. But there are no other clients, so that from
the second round on each goes on with what it keeps. Each strategy is one `fedlens run`, checkpoints and clients' files
included. They take turns as in `speed.py`; a ratio is taken within a repetition, as the median of the strategy's burst
over the median of FedAvg's.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from statistics import median
from typing import Any

import machine
from contender import HERE, Contender
from rich.console import Console
from rich.table import Table
from speed import compete, ratios

from fedlens.strategies.base import strategies

BASE = "fedavg"
TEN_CLIENTS = ("data.partition.clients=10", "data.validation=0.9", "federated.fraction_fit=1")
"""Of 6,000 images each, of which 600 are trained on."""
MOST = {"fedprox": 1.10, "scaffold": 1.25}
"""What is asked: a strategy costs what its mathematics costs."""


def contender(name: str, *overrides: str) -> Contender:
    script = HERE / "peers" / "fedlens_fedavg.py"
    overrides = (*TEN_CLIENTS, f"strategy.name={name}", *overrides)
    return Contender(name, [sys.executable, str(script), "lenet", "cpu", *overrides])


def figures(contenders: list[Contender]) -> dict[str, Any]:
    """What goes into the result file; `ratio` is to FedAvg, the first."""
    return {
        one.name: {
            "seconds_a_round": median(map(median, one.bursts)),
            "ratio": median(ratios(one, contenders[0])),
            "ratios": ratios(one, contenders[0]),
            "asked": MOST.get(one.name),
            "loss": [one.rounds[0].loss, one.rounds[-1].loss],
            "bursts": one.bursts,
        }
        for one in contenders
    }


def table(results: dict[str, Any]) -> Table:
    shown = Table("strategy", "s a round", f"it / {BASE}", "lowest – highest", "asked", "loss")
    for name, row in results.items():
        spread = f"{min(row['ratios']):.2f} – {max(row['ratios']):.2f}"
        asked = f"≤ {row['asked']:.2f}" if row["asked"] else ""
        loss = "{:.3f} → {:.3f}".format(*row["loss"])
        shown.add_row(name, f"{row['seconds_a_round']:.3f}", f"{row['ratio']:.2f}", spread, asked, loss)
    return shown


def main() -> None:
    others = [name for name in strategies.names() if name != BASE]
    parser = machine.parser(__doc__)
    parser.add_argument("--strategies", nargs="+", choices=others, default=others)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3, help="rounds a burst")
    parser.add_argument("--warm-up", type=int, default=2, help="rounds before the first burst")
    options, before = parser.parse_args(), machine.facts()
    if options.small:
        options.strategies, options.repetitions, options.rounds, options.warm_up = ["fedprox"], 1, 1, 0
    overrides = ("data.source=sample",) if options.small else ()
    contenders = [contender(name, *overrides) for name in (BASE, *options.strategies)]
    with ExitStack() as running:
        for one in contenders:
            one.start()
            running.callback(one.close)
            one.burst(1 + options.warm_up)
        compete(contenders, options.repetitions, options.rounds)
    results = figures(contenders)
    Console(width=120).print(table(results))
    print(machine.save("strategies", before, {"strategies": results}, small=options.small))


if __name__ == "__main__":
    main()
