"""Clients that lack a modality: weights per part against both baselines, on the way and at the end.

    .venv/bin/python benchmarks/missing_modalities.py

`configs/multimodal.yaml` with each value of `federated.missing_modalities` and the same seeds: accuracy on complete
test rows by image and text. Three measures, of which the first two ask how fast a run learns, because communication is
what a federation pays for:

    mean   of the accuracy after each round, the area under the learning curve
    rounds until the accuracy is 75, 80 and 85 %; one more than all where it is not reached
    end    accuracy after the last round

Differences are taken seed by seed, with the 95 % interval of their mean (Student's t). The measures were chosen from
runs with the seeds 0 to 2; the seeds here are others. `--drawn` draws the picture from the kept figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import machine
import numpy as np
from fedlens_run import FedLensRun
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

CONFIG = Path(__file__).parent.parent / "configs" / "multimodal.yaml"
OURS, BASELINES = "by_part", ("average", "drop_clients")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "missing-modalities.svg"
TARGETS = (0.75, 0.80, 0.85)

Curve = list[float]
"""Accuracy after each round."""


def curve(value: str, seed: int, *more: str) -> Curve:
    with FedLensRun(CONFIG, f"federated.missing_modalities={value}", f"seed={seed}", *more) as run:
        return [line["test"]["accuracy"] for _, line in run.rounds()]


def measures(accuracies: Curve) -> dict[str, float]:
    """In percent, and in rounds."""
    rounds = {
        f"rounds to {target:.0%}": next(
            (number for number, one in enumerate(accuracies, start=1) if one >= target), len(accuracies) + 1
        )
        for target in TARGETS
    }
    return {"mean": 100 * fmean(accuracies), **rounds, "end": 100 * accuracies[-1]}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return fmean(values), float(half)


def differences(curves: dict[str, list[Curve]], baseline: str) -> dict[str, Any]:
    """Measure → ours less the baseline, seed by seed, and the interval."""
    ours, theirs = ([measures(one) for one in curves[value]] for value in (OURS, baseline))
    found = {name: [mine[name] - other[name] for mine, other in zip(ours, theirs, strict=True)] for name in ours[0]}
    return {name: {"by_seed": values, "mean_and_half": interval(values)} for name, values in found.items()}


def table(curves: dict[str, list[Curve]], against: dict[str, dict[str, Any]]) -> Table:
    shown = Table("measure", *curves, *(f"{OURS} less {baseline}" for baseline in against))
    for name in measures(curves[OURS][0]):
        means = (f"{fmean(measures(one)[name] for one in found):.1f}" for found in curves.values())
        less = ("{:+.1f} ± {:.1f}".format(*found[name]["mean_and_half"]) for found in against.values())
        shown.add_row(name, *means, *less)
    return shown


def picture(curves: dict[str, list[Curve]], path: Path) -> None:
    """The mean curves, and what ours is ahead of each baseline, a thin line for each seed."""
    from matplotlib import pyplot

    from fedlens.reports.paper import STYLE

    style: dict[Any, Any] = {**STYLE}
    means = {value: 100 * np.array(found) for value, found in curves.items()}
    rounds = range(1, means[OURS].shape[1] + 1)
    with pyplot.rc_context(style):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
        for value, accuracies in means.items():
            (line,) = left.plot(rounds, accuracies.mean(0), label=value)
            if value == OURS:
                continue
            ahead = means[OURS] - accuracies
            right.plot(rounds, ahead.T, color=line.get_color(), alpha=0.3, linewidth=0.8)
            right.plot(rounds, ahead.mean(0), color=line.get_color(), label=f"{OURS} less {value}")
        left.set(xlabel="round", ylabel="accuracy, %", ylim=(50, None), title="by image and text, mean of the seeds")
        right.set(
            xlabel="round", ylabel="points", ylim=(-5, 20), title=f"how far {OURS} is ahead, each seed and the mean"
        )
        right.axhline(0, color="black", linewidth=0.6)
        for axes in (left, right):
            axes.set_xticks(range(0, len(rounds) + 1, 5))
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5, 6, 7])
    parser.add_argument("--picture", type=Path, default=PICTURE, help="the file to draw")
    parser.add_argument("--drawn", action="store_true", help="nothing is run: the picture of the kept figures")
    options, before = parser.parse_args(), machine.facts()
    if options.drawn:
        kept = json.loads((machine.RESULTS / "missing-modalities.json").read_text())
        picture(kept["accuracies"], options.picture)
        return
    more = ("federated.num_rounds=2",) if options.small else ()
    seeds = options.seeds[:1] if options.small else options.seeds
    curves: dict[str, list[Curve]] = {value: [] for value in (OURS, *BASELINES)}
    for seed in seeds:
        for value, found in curves.items():
            found.append(curve(value, seed, *more))
            print(f"seed {seed} {value:14}", *(f"{100 * one:.1f}" for one in found[-1]), flush=True)
    against = {baseline: differences(curves, baseline) for baseline in BASELINES}
    Console(width=140).print(table(curves, against))
    figures = {"seeds": seeds, "accuracies": curves, "by_part_less": against}
    if not options.small:
        picture(curves, options.picture)
    print(machine.save("missing-modalities", before, figures, small=options.small))


if __name__ == "__main__":
    main()
