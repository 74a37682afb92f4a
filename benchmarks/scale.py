"""Time and memory of simulations with 100 to 100,000 clients, what they grow with, and what a million would cost.

    .venv/bin/python benchmarks/scale.py --picture docs/images/scale.svg

Fashion-MNIST, drawn anew for each client (`data.partition.scheme=overlapping`), Poisson cohorts with
`privacy.mode=central`, one local epoch in batches of 20. Each point is one `fedlens run`: seconds until the first round
begins; seconds from one line of metrics to the next, the first round left out; and the memory of the coordinator and of
all workers together, after the second round and after the last one (PSS, which counts what processes share once; RSS
where the system does not tell it).

Three lines are fitted to the points of LeNet by least squares of relative errors, without negative terms:

    start   = a + b · population
    a round = a + b · population + c · clients of the round + d · images of the round
    memory  = a + b · population

Points that results/scale.json has already are not measured again; `--again` begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import machine
import numpy as np
import psutil
from fedlens_run import CONFIGS, FedLensRun, spent
from scipy.optimize import nnls

from fedlens.tracking.summary import duration

CONFIG = CONFIGS / "scale.yaml"
MODELS = {"lenet": (), "mobilenetv3": ("model.norm=group",)}
ROUNDS = {10: 25, 100: 12, 1000: 5}
"""Expected cohort → rounds that are timed, after one that is not."""
POPULATIONS = (100, 1_000, 10_000, 100_000)


@dataclass(frozen=True)
class Point:
    """One run. cohort: expected clients of a round; images: of each client."""

    model: str
    population: int
    cohort: int
    images: int = 20

    @property
    def name(self) -> str:
        return f"{self.model} {self.population} {self.cohort} {self.images}"

    @property
    def overrides(self) -> tuple[str, ...]:
        return (
            f"model.name={self.model}",
            *MODELS[self.model],
            f"data.partition.clients={self.population}",
            f"data.partition.images_per_client={self.images}",
            f"federated.fraction_fit={self.cohort / self.population}",
            "federated.num_rounds=1000",  # it is stopped before, so that its workers are there to the end
        )


POINTS = (
    *(Point("lenet", many, cohort) for many in POPULATIONS for cohort in ROUNDS if cohort <= many),
    *(Point("lenet", many, 100, 100) for many in (1_000, 100_000)),
    *(Point("mobilenetv3", many, 10) for many in (1_000, 100_000)),
)
SMALL = ("data.source=sample",)


@dataclass(frozen=True)
class Fit:
    """A line through points. terms: name → coefficient; errors: relative ones of the points, in percent."""

    terms: Mapping[str, float]
    error_median: float
    error_largest: float

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, float]], values: Sequence[float]) -> Fit:
        """rows: of each point, what its value is a sum of multiples of. Relative errors, because the largest value is a
        hundred times the smallest; no coefficient is negative, because nothing gives time or memory back."""
        names, measured = list(rows[0]), np.array(values)
        factors = np.array([[row[name] for name in names] for row in rows])
        found, _ = nnls(factors / measured[:, None], np.ones(len(measured)))
        errors = 100 * abs(factors @ found / measured - 1)
        return cls(dict(zip(names, found.tolist(), strict=True)), float(np.median(errors)), float(errors.max()))

    def at(self, row: Mapping[str, float]) -> float:
        return sum(self.terms[name] * value for name, value in row.items())


def measure(point: Point, *more: str) -> dict[str, Any]:
    """What one run takes: seconds until its first round, (clients, seconds) of each further round, and MiB."""
    rounds: list[tuple[int, float]] = []
    memory: list[dict[str, float]] = []
    with FedLensRun(CONFIG, *point.overrides, *more) as run:
        before, start = 0.0, 0.0
        for number, (arrived, line) in enumerate(run.rounds()):
            if number:
                rounds.append((len(line["cohort"]), arrived - before))
            else:
                start = arrived - spent(line)
            if number in (1, ROUNDS[point.cohort]):
                memory.append(used(run.process))
            if number == ROUNDS[point.cohort]:
                run.process.terminate()  # what a shell starts in the background ignores SIGINT
                break
            before = arrived
    return {"start": start, "rounds": rounds, "memory": memory}


def used(process: psutil.Popen) -> dict[str, float]:
    """MiB of the coordinator, and of its workers together."""
    workers = process.children(recursive=True)
    return {"coordinator": mebibytes(process), "workers": sum(map(mebibytes, workers)), "processes": len(workers)}


def mebibytes(process: psutil.Process) -> float:
    found = process.memory_full_info()
    return float(getattr(found, "pss", found.rss)) / 2**20


def total(memory: Mapping[str, float]) -> float:
    return memory["coordinator"] + memory["workers"]


def of_start(point: Point) -> dict[str, float]:
    return {"1": 1.0, "population": point.population}


def of_round(point: Point, clients: float) -> dict[str, float]:
    return {
        "1": 1.0,
        "population": point.population,
        "clients": clients,
        "images": clients * point.images,
    }


def fits(found: Mapping[Point, Mapping[str, Any]]) -> dict[str, Fit]:
    """The three lines. A round's seconds and clients are medians over the rounds of a point."""
    rounds = [of_round(point, median(clients for clients, _ in one["rounds"])) for point, one in found.items()]
    return {
        "start": Fit.of([of_start(point) for point in found], [one["start"] for one in found.values()]),
        "round": Fit.of(rounds, [seconds(one) for one in found.values()]),
        "memory": Fit.of([of_start(point) for point in found], [total(one["memory"][-1]) for one in found.values()]),
    }


def seconds(one: Mapping[str, Any]) -> float:
    """The median round."""
    return float(median(took for _, took in one["rounds"]))


def extrapolated(lines: Mapping[str, Fit], population: int = 1_000_000) -> Iterator[str]:
    """A table of what was not measured: what the lines say of a larger population, and what its server sends."""
    size = 0.177704  # MB of LeNet's 44,426 numbers
    yield "| clients of a round | a round | 1,000 rounds | the server sends and gets, flat | with 100 edges |"
    yield "|---|---|---|---|---|"
    for cohort in (100, 1_000, 10_000):
        took = lines["round"].at(of_round(Point("lenet", population, cohort), cohort))
        flat, edges = (2 * size * many for many in (cohort, min(cohort, 100)))
        yield f"| {cohort:,} | {took:.1f} s | {duration(1000 * took)} | {flat:,.0f} MB | {edges:,.0f} MB |"
    start, memory = (lines[name].at(of_start(Point("lenet", population, 0))) for name in ("start", "memory"))
    yield f"\nStart {start:.0f} s, memory {memory / 1024:.1f} GiB."


def table(found: Mapping[Point, Mapping[str, Any]]) -> Iterator[str]:
    yield "| model | clients in all | of a round | images of each | start | a round | memory, after 2 rounds → all |"
    yield "|---|---|---|---|---|---|---|"
    for point, one in found.items():
        first, last = (total(memory) for memory in (one["memory"][0], one["memory"][-1]))
        yield (
            f"| {point.model} | {point.population:,} | {point.cohort:,} | {point.images} | {one['start']:.1f} s "
            f"| {seconds(one):.2f} s | {first:,.0f} → {last:,.0f} MiB |"
        )


def picture(found: Mapping[Point, Mapping[str, Any]], path: Path) -> None:
    """Seconds of a round, seconds of the start, and memory, against the population, a curve for each kind of round."""
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from fedlens.reports.paper import STYLE

    shown: tuple[tuple[str, str, Callable[[Mapping[str, Any]], float]], ...] = (
        ("a round", "seconds", seconds),
        ("start, to the first round", "seconds", lambda one: one["start"]),
        ("memory of all processes", "MiB", lambda one: total(one["memory"][-1])),
    )
    kinds = list(dict.fromkeys((point.model, point.cohort, point.images) for point in found))
    style: dict[Any, Any] = {**STYLE}
    with pyplot.rc_context(style):
        figure, panels = pyplot.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
        for axes, (title, unit, value) in zip(panels, shown, strict=True):
            for model, cohort, images in kinds:
                curve = {
                    point.population: value(one)
                    for point, one in found.items()
                    if (point.model, point.cohort, point.images) == (model, cohort, images)
                }
                label = f"{model}, {cohort:,} clients a round, {images} images each"
                axes.plot(list(curve), list(curve.values()), marker="o", markersize=4, label=label)
            axes.set(xscale="log", yscale="log", xlabel="clients in all", ylabel=unit, title=title)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
                axis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.3)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)


def kept_before(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The points of results/scale.json, if they were measured with this processor and PyTorch."""
    path = machine.RESULTS / "scale.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"machine": {}}
    same = all(record["machine"].get(name) == facts[name] for name in ("cpu", "cores", "torch"))
    points: dict[str, Any] = record["points"] if same and "points" in record else {}
    return points


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--again", action="store_true", help="measure all points anew")
    parser.add_argument("--picture", type=Path, help="draw the points, too")
    options, before = parser.parse_args(), machine.facts()
    if options.small:
        point = Point("lenet", 300, 10, 5)
        print("\n".join(table({point: measure(point, *SMALL)})))
        print(machine.save("scale", before, {}, small=True))
        return
    known = {} if options.again else kept_before(before)
    for point in POINTS:
        if point.name not in known:
            known[point.name] = measure(point)
            print(point.name, f"{seconds(known[point.name]):.2f} s a round", flush=True)
            machine.save("scale", before, {"points": known}, small=False)
    found = {point: known[point.name] for point in POINTS}
    lines = fits({point: one for point, one in found.items() if point.model == "lenet"})
    figures = {"points": known, "fits": {name: asdict(line) for name, line in lines.items()}}
    print("\n".join(table(found)), "\n")
    for name, line in lines.items():
        terms = " + ".join(
            f"{factor:.3g}" + ("" if term == "1" else f" · {term}") for term, factor in line.terms.items()
        )
        print(f"{name} = {terms}; off by {line.error_median:.0f} % (median), {line.error_largest:.0f} % at most")
    print("\nExtrapolated to 1,000,000 clients with LeNet and 20 images each, not measured:\n")
    print("\n".join(extrapolated(lines)))
    if options.picture:
        picture(found, options.picture)
    print(machine.save("scale", before, figures, small=False))


if __name__ == "__main__":
    main()
