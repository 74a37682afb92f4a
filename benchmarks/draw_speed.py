"""Draws kept figures: a round's time by the number of processes, and by the number of clients that train together.

    .venv/bin/python benchmarks/speed.py lenet --contenders fedlens-workers-1 fedlens-workers-2 pfl pfl-2 bare \\
        --save-as speed-lenet-processes
    .venv/bin/python benchmarks/draw_speed.py

A panel for each file of `speed.py` below results/ that is named, and one of `vectorized.json`. Medians of the bursts;
the bars reach from the lowest to the highest one.
"""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROCESSES = ("speed-lenet-processes", "speed-mobilenetv3-processes")
TOGETHER = "vectorized"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "speed.svg"
PROGRAMS = {"fedlens": "FedLens", "pfl": "pfl-research", "flower": "Flower", "blazefl": "BlazeFL"}
CONTENDER = re.compile(r"(?P<program>[a-z]+?)(-vectorized-(?P<together>\d+))?(-workers)?(-(?P<processes>\d+))?")

Point = tuple[int, float, float, float]
"""Number of processes; median, lowest and highest seconds."""


def line_of(contender: str) -> tuple[str, int] | None:
    """The name of the line that it is a point of, and its number of processes; None: it has no such number."""
    found = CONTENDER.fullmatch(contender)
    if found is None or found["program"] not in PROGRAMS:
        return None
    name = PROGRAMS[found["program"]]
    together = f", {found['together']} clients together" if found["together"] else ""
    return name + together, int(found["processes"] or 1)


def lines(contenders: dict[str, Any]) -> dict[str, list[Point]]:
    """Name → points, by number of processes."""
    found: dict[str, list[Point]] = defaultdict(list)
    for contender, figures in contenders.items():
        if (line := line_of(contender)) is not None:
            bursts = [median(burst) for burst in figures["bursts"]]
            found[line[0]].append((line[1], median(bursts), min(bursts), max(bursts)))
    return {name: sorted(points) for name, points in found.items()}


def by_processes(axes: Axes, record: dict[str, Any], title: str) -> None:
    for name, points in lines(record["contenders"]).items():
        counts, seconds, lowest, highest = zip(*points, strict=True)
        below = [one - low for one, low in zip(seconds, lowest, strict=True)]
        above = [high - one for one, high in zip(seconds, highest, strict=True)]
        axes.errorbar(counts, seconds, (below, above), marker="o", markersize=4, capsize=2, label=name)
    if (bare := record["contenders"].get("bare")) is not None:
        seconds_alone = median(median(burst) for burst in bare["bursts"])
        axes.axhline(seconds_alone, color="grey", linestyle=":", label="a bare loop, one process")
    ticks = {count for points in lines(record["contenders"]).values() for count, *_ in points}
    axes.set(xlabel="processes", ylabel="seconds a round", ylim=(0, None), title=title, xticks=sorted(ticks))


def by_clients(axes: Axes, record: dict[str, Any]) -> None:
    for name, found in record["found"].items():
        if name.endswith(" equal"):
            ratios = {int(count): one["ratio"] for count, one in found.items()}
            axes.plot(list(ratios), list(ratios.values()), marker="o", markersize=4, label=name.removesuffix(" equal"))
    axes.axhline(1, color="grey", linestyle=":", label="one after the other")
    axes.set(xlabel="clients together", ylabel="times as fast", ylim=(0, None), title="clients together, one core")


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--picture", type=Path, default=PICTURE, help="the file to write")
    parser.add_argument("--processes", nargs="+", default=PROCESSES, metavar="NAME", help="files of speed.py")
    options = parser.parse_args()
    from matplotlib import pyplot

    from fedlens.reports.paper import STYLE

    names = (*options.processes, TOGETHER)
    records = {name: json.loads((machine.RESULTS / f"{name}.json").read_text()) for name in names}
    style: dict[Any, Any] = {**STYLE}
    with pyplot.rc_context(style):
        figure, panels = pyplot.subplots(1, len(records), figsize=(3.7 * len(records), 3.4), layout="constrained")
        for axes, (name, record) in zip(panels, records.items(), strict=True):
            if name == TOGETHER:
                by_clients(axes, record)
            else:
                by_processes(axes, record, name.removeprefix("speed-").removesuffix("-processes"))
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
        metadata = {"Date": None} if options.picture.suffix == ".svg" else None
        figure.savefig(io.BytesIO() if options.small else options.picture, dpi=130, metadata=metadata)
    print(machine.save("", {}, {}, small=True) if options.small else options.picture)


if __name__ == "__main__":
    main()
