"""Published figures made again: the runs of docs/reproductions.md, one after the other, its tables and its pictures.

    .venv/bin/python benchmarks/reproductions.py                                    # what is missing: many hours
    .venv/bin/python benchmarks/reproductions.py --settings niid-bench-iid --methods fedavg
    .venv/bin/python benchmarks/reproductions.py --collect --pictures docs/images   # only what is there already

Every run lies below `--logs` in a folder of its setting and method. A run that was stopped goes on, one that has ended
is not made again. Figures are kept in results/reproductions.json, also those of runs that are no longer there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine

import fedlens
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import find_runs

ROOT = Path(__file__).parent.parent
NAME = "reproductions"

Published = tuple[float, float]
"""Percent: mean and standard deviation."""


@dataclass(frozen=True)
class Setting:
    """One configuration file, and what was published for it, by method. `at_home`: accuracy on the clients' own test
    images, over all of them; else on the common test images."""

    config: str
    published: Mapping[str, Published]
    at_home: bool = False


METHODS = {
    "fedavg": (),
    "fedprox": ("strategy.name=fedprox", "strategy.mu=0.01"),
    "scaffold": ("strategy.name=scaffold",),
    "fednova": ("strategy.name=fednova",),
    "fedper": ("personalization.name=fedper",),
    "fedrep": ("personalization.name=fedrep", "personalization.head_epochs=1"),
    "ditto": ("personalization.name=ditto",),
    "fedbabu": (
        *("personalization.name=fedbabu", "personalization.tune_epochs=10"),
        "federated.evaluate_clients_every=100",  # it is fine-tuned for every evaluation
    ),
}

SETTINGS = {
    "niid-bench-iid": Setting(
        "niid-bench/iid.yaml",
        {"fedavg": (89.23, 0.45), "scaffold": (89.33, 0.27), "fedprox": (89.42, 0.09), "fednova": (89.36, 0.09)},
    ),
    "niid-bench-dirichlet": Setting(
        "niid-bench/dirichlet.yaml",
        {"fedavg": (88.09, 0.29), "scaffold": (88.44, 0.25), "fedprox": (88.15, 0.42), "fednova": (88.22, 0.12)},
    ),
    "niid-bench-two-classes": Setting(
        "niid-bench/two-classes.yaml",
        {"fedavg": (78.10, 2.51), "scaffold": (33.80, 41.22), "fedprox": (78.05, 0.99), "fednova": (71.67, 2.34)},
    ),
    "pfllib-dirichlet": Setting(
        "pfllib/dirichlet.yaml",
        {
            "fedavg": (85.85, 0.19),
            "fedper": (97.44, 0.06),
            "fedrep": (97.56, 0.04),
            "ditto": (97.47, 0.04),
            "fedbabu": (97.46, 0.07),
        },
        at_home=True,
    ),
    "pfllib-two-classes": Setting(
        "pfllib/two-classes.yaml",
        {
            "fedavg": (80.41, 0.08),
            "fedper": (99.47, 0.03),
            "fedrep": (99.56, 0.03),
            "ditto": (99.44, 0.06),
            "fedbabu": (99.41, 0.05),
        },
        at_home=True,
    ),
}


SMALL = ["data.source=sample", "federated.num_rounds=1", "federated.local_epochs=1"]


def made(folder: Path, setting: Setting, method: str, overrides: Sequence[str]) -> None:
    """The run, unless it has ended before."""
    runs = find_runs(folder)
    if not runs:
        config = ROOT / "configs" / setting.config
        fedlens.run(config, *METHODS[method], f"tracking.dir={folder}", *overrides)
    elif not runs[-1].result.exists():
        fedlens.resume(runs[-1].path)


def curve(folder: Path, setting: Setting) -> dict[str, Any] | None:
    """Accuracy in percent by round, the best of them, and minutes; None where no run has ended."""
    ended = [run for run in find_runs(folder) if run.result.exists()]
    if not ended:
        return None
    lines = read_metrics(ended[-1].metrics)
    key, figure = ("clients", "mean_over_examples") if setting.at_home else ("test", "accuracy")
    points = {str(line["round"]): round(100 * line[key][figure], 2) for line in lines if line[key]}
    minutes = sum(sum(line["seconds"].values()) for line in lines) / 60
    return {"best": max(points.values()), "minutes": round(minutes, 1), "curve": points}


def markdown(setting: Setting, found: Mapping[str, Any]) -> str:
    """The rows of the page's table: published, ours, difference."""
    rows = []
    for method, (mean, deviation) in setting.published.items():
        published = f"{mean:.2f} ± {deviation:.2f}"
        ours, difference = "not run", ""
        if method in found:
            best = found[method]["best"]
            ours, difference = f"{best:.2f}", f"{best - mean:+.2f}".replace("-", "−")
        rows.append(f"| {method} | {published} | {ours} | {difference} |")
    return "\n".join(rows)


def picture(settings: Mapping[str, Setting], found: Mapping[str, Any], path: Path) -> None:
    """A plot a setting that was run: our curves, and the published figures as dashed lines of their colours."""
    from matplotlib import pyplot

    width = len(settings)
    figure, all_axes = pyplot.subplots(1, width, figsize=(5 * width, 4), layout="constrained", squeeze=False)
    for axes, (name, setting) in zip(all_axes[0], settings.items(), strict=True):
        for number, (method, (mean, _)) in enumerate(setting.published.items()):
            axes.axhline(mean, color=f"C{number}", linestyle="--", linewidth=0.8)
            if method in found[name]:
                points = found[name][method]["curve"]
                axes.plot(
                    [*map(int, points)],
                    [*points.values()],
                    color=f"C{number}",
                    label=method,
                    marker="o" if len(points) == 1 else "",
                )
        best = [one["best"] for one in found[name].values()]
        axes.set(title=name, xlabel="round", ylabel="accuracy in %", ylim=(max(0, min([*best, 80]) - 30), 100))
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--logs", type=Path, default=Path("logs/reproductions"))
    parser.add_argument("--collect", action="store_true", help="make no run")
    parser.add_argument("--pictures", type=Path, help="folder for niid-bench.png and pfllib.png")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for every run; figures are not kept")
    options, before = parser.parse_args(), machine.facts()
    if options.small:
        options.settings, options.methods, options.set = ["niid-bench-iid"], ["fedavg"], SMALL
    kept = machine.RESULTS / f"{NAME}.json"
    found: dict[str, dict[str, Any]] = json.loads(kept.read_text())["found"] if kept.exists() else {}
    for name in options.settings:
        setting = SETTINGS[name]
        for method in [method for method in setting.published if method in options.methods]:
            folder = options.logs / f"{name}-{method}"
            if not options.collect:
                made(folder, setting, method, options.set)
            if (result := curve(folder, setting)) is not None:
                found.setdefault(name, {})[method] = result
        print(f"\n{name}\n{markdown(setting, found.get(name, {}))}", flush=True)
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for family in ("niid-bench", "pfllib"):
            chosen = {name: setting for name, setting in SETTINGS.items() if name.startswith(family) and name in found}
            if chosen:
                picture(chosen, found, options.pictures / f"{family}.png")
    print(machine.save(NAME, before, {"found": found}, small=options.small or bool(options.set)))


if __name__ == "__main__":
    main()
