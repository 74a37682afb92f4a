"""What accuracy each ε buys: differential privacy of whole clients, and of single images, against none.

    .venv/bin/python benchmarks/privacy_utility.py --picture docs/images/privacy-utility.png
    .venv/bin/python benchmarks/privacy_utility.py --seeds 0 --epsilons none 8 2 --ways poisson

Fashion-MNIST at 64 pixels; of EfficientNet-Lite0 with its ImageNet weights the head is trained, 12,810 numbers. Whole
clients: dealt out evenly to 1,000 clients of 60 images, 100 of them a round on average, 50 rounds of two local epochs
in batches of 20, clip 1, δ = 1e-5. Ways to spend the same ε:

    poisson   cohorts drawn by coins, independent noise: what amplification by sampling is worth
    dp_ftrl   groups that take turns, noise correlated over the rounds: DP-FTRL
    flower    Flower's server-side fixed clipping (`flower_clipping.py`) with the noise multiplier of `poisson`. Its
              cohorts have a fixed size and are not secret, so the ε that can be claimed for it is a larger one; it is
              computed by the same accountant, and told beside
    example   DP-SGD: single images are hidden, of 10 clients with 6,000 each; 5 rounds of one local epoch

"no noise" clips and samples alike. The table has the test accuracy of the last round: the mean over the seeds, and its
95 % interval by Student's t, wide for three. It is printed as docs/privacy-utility.md has it. Noise and cohorts
come from the operating system, so a run does not repeat to the bit. What has run is kept in the folder `--work`: the
same command again does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import machine

import fedlens
from fedlens.privacy.accounting import Release, epsilon, noise_for
from fedlens.tracking.intervals import of_mean
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import find_runs

ROUNDS, FRACTION, DELTA, CLIENTS = 50, 0.1, 1e-5, 1000
NO_NOISE = "no noise"
WORK = (
    *("model.name=efficientnet_lite0", "model.pretrained=true", "model.freeze=backbone", "data.image_size=64"),
    *("data.source=fashion_mnist", "data.partition.scheme=iid", "data.validation=0", "data.augment=none"),
    *("data.client_test=0", "federated.evaluate_every=0", "tracking.tensorboard=false", "tracking.report=false"),
)
CLIENT_LEVEL = (
    *(f"federated.num_rounds={ROUNDS}", f"federated.fraction_fit={FRACTION}", "federated.local_epochs=2"),
    *("federated.batch_size=20", "optimizer.lr=0.2", f"data.partition.clients={CLIENTS}"),
)
CENTRAL = (*CLIENT_LEVEL, "privacy.mode=central", "privacy.clip=1", f"privacy.delta={DELTA}")
FLOWER = (
    *(*CLIENT_LEVEL, "aggregation.name=flower_clipping", f"aggregation.clients={int(FRACTION * CLIENTS)}"),
    f"plugins=[{Path(__file__).with_name('flower_clipping.py')}]",
)
EXAMPLE = (
    *("federated.num_rounds=5", "federated.fraction_fit=1", "federated.local_epochs=1", "federated.batch_size=256"),
    *("optimizer.lr=0.5", "data.partition.clients=10"),
    *("privacy.mode=example", "privacy.clip=1", f"privacy.delta={DELTA}"),
)
WAYS: Mapping[str, Sequence[str]] = {
    "poisson": CENTRAL,
    "dp_ftrl": (*CENTRAL, "privacy.sampling=cyclic", "privacy.mechanism=dp_ftrl"),
    "flower": FLOWER,
    "example": EXAMPLE,
}
SMALL = {
    "poisson": ("data.source=sample", "data.partition.clients=50", "federated.num_rounds=1"),
    "flower": ("data.source=sample", "data.partition.clients=50", "federated.num_rounds=1", "aggregation.clients=5"),
}


def sigma(target: float) -> float:
    """The noise multiplier of `poisson` for that ε."""
    return noise_for(target, DELTA, lambda one: {Release(one, FRACTION): ROUNDS})


def noise(way: str, target: float | None) -> str:
    if way == "flower":
        return f"aggregation.sigma={0 if target is None else sigma(target)}"
    return "privacy.noise_multiplier=0" if target is None else f"privacy.target_epsilon={target}"


def accuracy(way: str, target: float | None, seed: int, work: Path, *more: str) -> float:
    """Test accuracy of the last round; of an earlier call, where that run is in `work`."""
    name = f"{way}-{'none' if target is None else f'{target:g}'}-{seed}"
    done = [run.path for run in find_runs(work) if run.path.name.startswith(f"{name}-") and run.result.exists()]
    if not done:
        overrides = (*WORK, *WAYS[way], noise(way, target), *more, f"seed={seed}")
        done = [fedlens.run(None, *overrides, f"tracking.dir={work}", f"tracking.name={name}", show=False).folder]
    return float(read_metrics(done[0] / "metrics.jsonl")[-1]["test"]["accuracy"])


def claimable(target: float) -> float:
    """ε of Flower's run: a client may take part in every round, and no sampling is secret."""
    return epsilon({Release(sigma(target)): ROUNDS}, DELTA).value


def markdown(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A row a way, a column an ε: mean test accuracy in %, and half its interval."""
    levels = list(next(iter(found.values())))
    rows = [["", *(level if level == NO_NOISE else f"ε = {level}" for level in levels)], ["---"] * (len(levels) + 1)]
    rows += [[way, *(cell(scores[level]) for level in levels)] for way, scores in found.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(values: Sequence[float]) -> str:
    half = half_interval(values)
    return f"{100 * mean(values):.1f}" + (f" ± {100 * half:.1f}" if half else "")


def half_interval(values: Sequence[float]) -> float:
    interval = of_mean(values)
    return (interval[1] - interval[0]) / 2 if interval else 0.0


def picture(found: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Test accuracy of every way against ε, with intervals; at the right without noise."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for way, scores in found.items():
        means = [100 * mean(values) for values in scores.values()]
        halves = [100 * half_interval(values) for values in scores.values()]
        axes.errorbar(list(scores), means, halves, marker="o", capsize=3, label=way)
    axes.invert_xaxis()
    axes.set(xlabel="ε", ylabel="test accuracy in %", title="Mean over the seeds and its 95 % interval")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epsilons", type=level, nargs="+", default=[None, 8.0, 4.0, 2.0, 1.0], help="none: no noise")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--picture", type=Path, help="draw the table as curves, too")
    parser.add_argument("--work", type=Path, default=Path("logs/privacy-utility"), help="folder of the runs")
    arguments = parser.parse_args()
    before, small = machine.facts(), arguments.small
    seeds = [0] if small else arguments.seeds
    levels: list[float | None] = [None, 8.0] if small else arguments.epsilons
    found: dict[str, dict[str, list[float]]] = {}
    for way in SMALL if small else arguments.ways:
        for target in levels:
            more = SMALL[way] if small else ()
            scores = [accuracy(way, target, seed, arguments.work, *more) for seed in seeds]
            found.setdefault(way, {})[label(target)] = scores
            print(f"{way:8} ε {label(target):8} {cell(scores)}", flush=True)
    if arguments.picture:
        picture(found, arguments.picture)
    print(f"\n{markdown(found)}\n")
    unamplified = {label(target): claimable(target) for target in levels if target is not None}
    print(f"ε of Flower's runs, without amplification: {unamplified}")
    print(machine.save("privacy-utility", before, {"accuracies": found, "flower_epsilon": unamplified}, small=small))


def level(text: str) -> float | None:
    return None if text == "none" else float(text)


def label(target: float | None) -> str:
    return NO_NOISE if target is None else f"{target:g}"


if __name__ == "__main__":
    main()
