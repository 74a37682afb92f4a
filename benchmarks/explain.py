"""Runs that are made ill on purpose, and healthy ones: what does `fedlens explain` say of them?

    python benchmarks/explain.py [--small] [--world sample|digits]

The checks were written while looking at runs on the sample. They are tried with other seeds, another model and other
images: scikit-learn's digits (`uv pip install scikit-learn`). Runs that are there already are not made again. Without
--world the tables are written into docs/explain.md.

Asked: 90 % of the illnesses named first or second, and at most one healthy run in ten with a finding. An illness counts
where it does harm: where the last test accuracy is 3 points or more below that of "equal clients" with the same seed;
with a model of their own for the clients, that of their own test images. What only costs time or results always counts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import machine

from fedlens.explain.explain import explain
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import configuration, find_runs
from fedlens.tracking.summary import last_with

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "explain.md"
BEGIN, END = "<!-- table, by benchmarks/explain.py -->", "<!-- end of the table -->"

SCHEME = "data.partition.scheme"
IN_TURN = "tracking.leave_one_out=1"
HURT = ("clients that hurt",)
HARM = 0.03
"""Accuracy below that of a healthy run, from which an illness is one."""


@dataclass(frozen=True)
class Illness:
    """settings: overrides of the world's; named: the findings that are right."""

    settings: str
    named: tuple[str, ...]
    harm: Literal["accuracy", "clients", "time"] = "accuracy"


ILL: Mapping[str, Illness] = {
    "learning rate much too high": Illness("optimizer.lr=5", ("learning rate too high",)),
    "learning rate too high": Illness("optimizer.lr=1", ("learning rate too high",)),
    "SGD's learning rate for AdamW": Illness("optimizer.name=adamw optimizer.lr=0.1", ("learning rate too high",)),
    "learning rate too low": Illness("optimizer.lr=0.001", ("learning rate too low",)),
    "far too few rounds": Illness(
        "federated.num_rounds=4 optimizer.schedule=constant", ("too few rounds", "learning rate too low")
    ),
    "gradients clipped to nothing": Illness("optimizer.clip_norm=0.01", ("gradients clipped too much",)),
    "server's rate too high": Illness("strategy.name=fedadam strategy.server_lr=1", ("server's step too long",)),
    "server's momentum too high": Illness(
        "strategy.name=fedavgm strategy.server_momentum=0.99 optimizer.schedule=constant", ("server's step too long",)
    ),
    "two classes a client": Illness(
        f"{SCHEME}=pathological data.partition.classes_per_client=2 federated.local_epochs=1", ("label skew",)
    ),
    "one class a client": Illness(
        f"{SCHEME}=pathological data.partition.classes_per_client=1 federated.local_epochs=1", ("label skew",)
    ),
    "thirty local epochs on unlike labels": Illness(
        f"{SCHEME}=dirichlet data.partition.alpha=0.1 federated.local_epochs=30 federated.num_rounds=6",
        ("too many local epochs",),
    ),
    "one client a round": Illness(
        f"{SCHEME}=dirichlet data.partition.alpha=0.1 federated.fraction_fit=0.1 federated.min_fit_clients=1",
        ("cohort too small",),
    ),
    "negatives at half of the clients": Illness("data.inverted=0.5", ("feature skew",)),
    "random labels at two clients": Illness("data.mislabelled=0.2", ("bad labels",)),
    "two classes nearly missing": Illness("data.rare=2", ("classes never predicted",)),
    "few images, many epochs": Illness(
        "data.train=150 federated.num_rounds=60 federated.local_epochs=10 optimizer.schedule=constant", ("overfitting",)
    ),
    "few steps of BatchNorm with a long memory": Illness(
        "data.train=600 model.name=mobilenetv3 federated.local_epochs=4 federated.num_rounds=6",
        ("broken normalisation statistics",),
    ),
    "compression to a ten-thousandth": Illness(
        "compression.name=topk compression.share=0.0001", ("compressed too much",)
    ),
    "noise for ten clients": Illness("privacy.mode=central privacy.noise_multiplier=1", ("noise drowns the signal",)),
    "privacy's clip a hundredth of the updates": Illness(
        "privacy.mode=central privacy.noise_multiplier=0.05 privacy.clip=0.01", ("privacy clip too low",)
    ),
    "a third that flips its updates": Illness("attack.name=sign_flip attack.fraction=0.3", ("attack without defence",)),
    "clients of very unequal speed": Illness("clock.name=lognormal clock.sigma=2", ("stragglers",), "time"),
    "results that get lost": Illness(
        "clock.name=lognormal clock.sigma=0.1 clock.dropout=0.5", ("clients fail",), "time"
    ),
    "each client its own model, of its images alone": Illness(
        "personalization.name=ditto personalization.lam=0",
        ("personalization does not pay",),
        "clients",
    ),
}

HEALTHY: Mapping[str, str] = {
    "equal clients": "",
    "all clients": "federated.fraction_fit=1",
    "slightly unlike labels": f"{SCHEME}=dirichlet data.partition.alpha=2",
    "unequal sizes": f"{SCHEME}=quantity",
    "FedProx": "strategy.name=fedprox strategy.mu=0.01",
    "FedAvgM": "strategy.name=fedavgm strategy.server_momentum=0.5",
    "SCAFFOLD": "strategy.name=scaffold",
    "AdamW": "optimizer.name=adamw optimizer.lr=0.002",
    "half precision on the way": "compression.name=half",
    "gradients clipped at 5": "optimizer.clip_norm=5",
    "a clock of like clients": "clock.name=lognormal clock.sigma=0.2",
    "fine-tuning at home": "personalization.name=finetune",
}


IN_TURN_ILL: Mapping[str, Illness] = {
    "one in ten that flips its updates": Illness(f"attack.name=sign_flip attack.fraction=0.1 {IN_TURN}", HURT),
    "a fifth that flips its labels": Illness(f"attack.name=label_flip attack.fraction=0.2 {IN_TURN}", HURT),
    "one in ten that sends noise": Illness(f"attack.name=gaussian attack.fraction=0.1 {IN_TURN}", HURT),
    "random labels at one client": Illness(f"data.mislabelled=0.1 {IN_TURN}", (*HURT, "bad labels")),
}
IN_TURN_HEALTHY: Mapping[str, str] = {
    "equal clients, all measured": IN_TURN,
    "slightly unlike labels, all measured": f"{SCHEME}=dirichlet data.partition.alpha=2 {IN_TURN}",
    "FedAvgM, all measured": f"strategy.name=fedavgm strategy.server_momentum=0.5 {IN_TURN}",
}
"""With leave-one-out: the clients that hurt have to be named, not only that there is an attack."""


@dataclass(frozen=True)
class World:
    """Images, model and seeds."""

    title: str
    settings: str
    seeds: str


COMMON = (
    f"plugins=[{HERE / 'ill_data.py'}] data.source=ill federated.num_rounds=15 federated.local_epochs=2 "
    "federated.fraction_fit=0.5 optimizer.schedule=cosine tracking.tensorboard=false tracking.report=false"
)

WORLDS: Mapping[str, World] = {
    "sample": World("the sample, LeNet", "data.of=sample model.name=lenet optimizer.lr=0.05", "0:2"),
    "digits": World(
        "digits of 16 pixels, CNN",
        "data.of=digits data.image_size=16 model.name=cnn optimizer.lr=0.05 federated.num_rounds=30",
        "40:42",
    ),
}


@dataclass(frozen=True)
class Said:
    """What was said of one run: the names of its findings, in their order; and its last accuracies, on the test images
    and on the clients' own."""

    case: str
    seed: int
    names: tuple[str, ...]
    accuracies: Mapping[str, float]

    @property
    def right(self) -> bool:
        """The illness was named first or second; of a healthy run nothing was said."""
        illness = illness_of(self.case)
        return any(name in illness.named for name in self.names[:2]) if illness else not self.names


def illness_of(case: str) -> Illness | None:
    """None: it is a healthy setting."""
    return ILL.get(case) or IN_TURN_ILL.get(case)


def make(world: World, cases: Mapping[str, str], folder: Path, more: Sequence[str]) -> None:
    """Do the runs that are not there yet. Some illnesses end a run with an error: what is there is explained."""
    options = [word for name, settings in cases.items() for word in ("--case", f"{name}: {settings}".rstrip())]
    command = [sys.executable, "-m", "fedlens", "sweep", *COMMON.split(), *world.settings.split(), *more, *options]
    subprocess.run(
        [*command, f"tracking.dir={folder.parent}", "--name", folder.name, "--yes"],
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def said(folder: Path) -> Iterator[Said]:
    """What is said of each run below `folder`."""
    for run in find_runs(folder):
        if read_metrics(run.metrics):
            config = configuration(run)
            case = str(config["tracking"]["name"]).partition(" seed=")[0]
            metrics = read_metrics(run.metrics)
            last = {"accuracy": last_with(metrics, "test"), "clients": last_with(metrics, "clients")}
            accuracies = {part: float((found or {}).get("accuracy") or 0.0) for part, found in last.items()}
            yield Said(case, int(config["seed"]), tuple(one.name for one in explain(run.path)), accuracies)


def harmless(one: Said, found: Sequence[Said]) -> bool:
    """An illness that did no harm in this run."""
    illness = illness_of(one.case)
    kind = illness.harm if illness else "time"
    healthy = next((other for other in found if (other.case, other.seed) == ("equal clients", one.seed)), None)
    return kind != "time" and healthy is not None and one.accuracies[kind] > healthy.accuracies[kind] - HARM


def table(found: Sequence[Said], cases: Sequence[str], last: str) -> list[str]:
    """Markdown: a line for each case, with what was said of each seed."""
    seeds = sorted({one.seed for one in found})
    lines = [f"| {last} | {' | '.join(f'seed {seed}' for seed in seeds)} | right |", "|---" * (len(seeds) + 2) + "|"]
    for case in cases:
        of = {one.seed: one for one in found if one.case == case}
        counted = [one for one in of.values() if not harmless(one, found)]
        cells = (_cell(of[seed], found) if seed in of else "–" for seed in seeds)
        right = f"{sum(one.right for one in counted)} of {len(counted)}" if counted else "–"
        lines.append(f"| {case} | {' | '.join(cells)} | {right} |")
    return lines


def _cell(one: Said, found: Sequence[Said]) -> str:
    told = ", ".join(one.names[:2]) or "nothing"
    return f"({told}: no harm)" if harmless(one, found) else told


def shares(found: Sequence[Said], among: Collection[str]) -> tuple[tuple[int, int], tuple[int, int]]:
    """((illnesses named first or second, all), (healthy runs with a finding, all)), of the cases `among`."""
    counted = [one for one in found if one.case in among and not harmless(one, found)]
    ill = [one for one in counted if illness_of(one.case)]
    healthy = [one for one in counted if not illness_of(one.case)]
    return (sum(one.right for one in ill), len(ill)), (sum(not one.right for one in healthy), len(healthy))


def chapter(world: World, found: Sequence[Said]) -> str:
    """The tables of one world, with a title and the two shares; then those with leave-one-out."""
    return "\n".join(
        [
            f"### {world.title}",
            "",
            *_tables(found, ILL, HEALTHY),
            "",
            f"#### {world.title}, with leave-one-out",
            "",
            *_tables(found, IN_TURN_ILL, IN_TURN_HEALTHY),
        ]
    )


def _tables(found: Sequence[Said], ill: Mapping[str, Illness], healthy: Mapping[str, str]) -> list[str]:
    """A line with the shares, and both tables."""
    (named, sick), (alarms, well) = shares(found, {*ill, *healthy})
    told = f"{named} of {sick} illnesses named first or second, {alarms} of {well} healthy runs with a finding."
    return [told, "", *table(found, list(ill), "made ill by"), "", *table(found, list(healthy), "healthy")]


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--world", choices=WORLDS, help="only this one; docs/explain.md stays as it is")
    options, before = parser.parse_args(), machine.facts()
    made = {name: one.settings for name, one in {**ILL, **IN_TURN_ILL}.items()}
    cases = {**made, **HEALTHY, **IN_TURN_HEALTHY}
    chosen, more = ([options.world] if options.world else list(WORLDS)), []
    if options.small:
        chosen, more = ["sample"], ["federated.num_rounds=1", "data.train=60"]
        cases = dict([*cases.items()][:1])
    figures, chapters = {}, []
    with tempfile.TemporaryDirectory() as temporary:
        logs = Path(temporary) if options.small else HERE.parent / "logs" / "explain"
        for name in chosen:
            world = WORLDS[name]
            make(world, cases, logs / name, [f"seed={world.seeds}", *more])
            found = list(said(logs / name))
            (named, ill), (alarms, healthy) = shares(found, {*ILL, *HEALTHY})
            figures[name] = {"named": named, "ill": ill, "alarms": alarms, "healthy": healthy}
            chapters.append(chapter(world, found))
    print("\n\n".join(chapters))
    if not options.small and not options.world:
        text = PAGE.read_text()
        start, rest = text.split(BEGIN)[0], text.split(END)[1]
        PAGE.write_text(f"{start}{BEGIN}\n\n" + "\n\n".join(chapters) + f"\n\n{END}{rest}")
    print(machine.save("explain", before, figures, small=options.small or bool(options.world)))


if __name__ == "__main__":
    main()
