"""What a federation of ten solar plants is worth: FedAvg against one pooled data set, and against every plant alone.

    .venv/bin/python benchmarks/solar.py

FedAvg is `fedlens run configs/solar-inspection.yaml` with four seeds. The baselines have the same cells held out, the
same features, the same head that starts from zero, and as many passes over their cells as FedAvg has rounds: one head
for the cells of all plants together, and one head for each plant. Their learning rate is the best of `RATES` on a
validation split of the training cells; so was FedAvg's. Every model is tested on all held-out cells, the global test
set and the plants' own, a quarter of the data; "at home" is the part of them that comes from the plant.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import machine
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fedlens
from fedlens.api import resolve
from fedlens.build.builders import local_settings
from fedlens.build.experiment import build_experiment
from fedlens.build.inputs import inputs_of
from fedlens.core.records import Evaluation
from fedlens.core.seeds import derive
from fedlens.core.types import State
from fedlens.data.sources.elpv import ELPV
from fedlens.data.types import Rows
from fedlens.models.base import Recognizer
from fedlens.strategies.base import LocalTerms
from fedlens.training.evaluation import evaluate
from fedlens.training.loop import LocalLoop
from fedlens.training.optimizers.base import VectorOptimizer

RECIPE = Path(__file__).parents[1] / "configs" / "solar-inspection.yaml"
SEEDS = range(4)
QUIET = ("tracking.tensorboard=false", "tracking.report=false")
RATES = (0.0025, 0.005, 0.01, 0.02)
VALIDATION = "data.validation=0.15"

NAMES = {
    "majority": 'always "functional"',
    "alone_everywhere": "each plant alone, on everyone",
    "fedavg_reported": "FedAvg, global test set only",
    "fedavg": "FedAvg, on everyone",
    "central": "all cells in one place",
    "alone_home": "each plant alone, at home",
    "fedavg_mean_plant": "FedAvg, mean over plants",
    "alone_mean_plant": "each plant alone, mean over plants",
}
"""Accuracies, over images where the name does not say otherwise. FedAvg at home, over images, is FedAvg on everyone."""

Heads = Mapping[str, State]
"""The head that each plant uses."""


class Bench:
    """The recipe's splits and features for one seed, and heads to train on them."""

    def __init__(self, seed: int, folder: Path, *overrides: str) -> None:
        self._config = resolve(RECIPE, [f"seed={seed}", *overrides])
        self._experiment = build_experiment(self._config, folder, _silent, model=None, data=None)
        self._start = self._experiment.resident.state()
        data, plants = self._experiment.train_data, np.asarray(ELPV().load().clients)
        self.training = {client.name: client.train for client in data.clients}
        self.validation = {client.name: client.val for client in data.clients}
        self.held_out = {
            client.name: np.union1d(client.test, data.test[plants[data.test] == client.name]) for client in data.clients
        }

    def train(self, name: str, rows: Rows, lr: float) -> State:
        """A head that has seen `rows` once for every round of the federation, by the project's own local loop."""
        resident, settings = self._experiment.resident, local_settings(self._config)
        resident.load(self._start)
        generator = torch.Generator().manual_seed(derive(self._config.seed, "baseline", name))
        epochs = self._config.federated.num_rounds * settings.epochs
        batches = inputs_of(self._experiment, rows).epochs(epochs, settings.batch_size, generator)
        LocalLoop(resident, settings, LocalTerms()).run(batches, VectorOptimizer(settings.optimizer, {}), lr, generator)
        return resident.state()

    def test(self, head: State, rows: Rows) -> Evaluation:
        resident = self._experiment.resident
        resident.load(head)
        return evaluate(resident.module, inputs_of(self._experiment, rows), self._experiment.classes)


def _silent(_label: str) -> Callable[[int, int], None]:
    return lambda _done, _all: None


def central(bench: Bench, lr: float) -> Heads:
    """One head for all, trained on all cells in one place."""
    head = bench.train("central", np.concatenate(list(bench.training.values())), lr)
    return dict.fromkeys(bench.training, head)


def alone(bench: Bench, lr: float) -> Heads:
    """Every plant's own head, trained on its own cells."""
    return {name: bench.train(name, rows, lr) for name, rows in bench.training.items()}


def at_home(bench: Bench, heads: Heads, rows: Mapping[str, Rows]) -> dict[str, Evaluation]:
    """Every plant's head on its own part of `rows`."""
    return {name: bench.test(head, rows[name]) for name, head in heads.items()}


def over_images(results: Mapping[str, Evaluation]) -> float:
    """Accuracy where every image counts the same."""
    return sum(r.accuracy * r.examples for r in results.values()) / sum(r.examples for r in results.values())


def over_plants(results: Mapping[str, Evaluation]) -> float:
    """Accuracy where every plant counts the same."""
    return mean(result.accuracy for result in results.values())


def best_rate(method: Callable[[Bench, float], Heads], tuning: Bench) -> float:
    """The learning rate with the highest validation accuracy; no held-out cell is looked at."""
    return max(RATES, key=lambda lr: over_images(at_home(tuning, method(tuning, lr), tuning.validation)))


def head_of(model: nn.Module) -> State:
    assert isinstance(model, Recognizer)
    return model.head.state_dict()


def one_seed(seed: int, *overrides: str) -> dict[str, Any]:
    """Every accuracy of `NAMES`, the chosen `rates`, and the accuracies by plant."""
    with tempfile.TemporaryDirectory(prefix="fedlens-solar-") as folder:
        run = fedlens.run(RECIPE, f"seed={seed}", *QUIET, f"tracking.dir={folder}", *overrides, show=False)
        reported, head = float(run.metrics["test.accuracy"].iloc[-1]), head_of(run.model)
        bench, tuning = Bench(seed, Path(folder), *overrides), Bench(seed, Path(folder), VALIDATION, *overrides)
    rates = {method.__name__: best_rate(method, tuning) for method in (central, alone)}
    own = alone(bench, rates["alone"])
    everyone = np.concatenate(list(bench.held_out.values()))
    fedavg = at_home(bench, dict.fromkeys(own, head), bench.held_out)
    home = at_home(bench, own, bench.held_out)
    truth = sum(result.confusion.sum(axis=1) for result in fedavg.values())
    return {
        "majority": float(truth.max() / truth.sum()),
        "alone_everywhere": mean(bench.test(head, everyone).accuracy for head in own.values()),
        "fedavg_reported": reported,
        "fedavg": over_images(fedavg),
        "central": over_images(at_home(bench, central(bench, rates["central"]), bench.held_out)),
        "alone_home": over_images(home),
        "fedavg_mean_plant": over_plants(fedavg),
        "alone_mean_plant": over_plants(home),
        "rates": rates,
        "plants": {
            name: {"held_out": home[name].examples, "fedavg": fedavg[name].accuracy, "alone": home[name].accuracy}
            for name in own
        },
    }


def summary(seeds: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and range over the seeds of every accuracy."""
    values = {name: [seed[name] for seed in seeds] for name in NAMES}
    return {name: {"mean": mean(of), "lowest": min(of), "highest": max(of)} for name, of in values.items()}


def show(figures: Mapping[str, Mapping[str, float]]) -> None:
    table = Table("", "accuracy", "lowest – highest", title=f"Solar cells, held out, {len(SEEDS)} seeds")
    for name, figure in figures.items():
        table.add_row(NAMES[name], f"{figure['mean']:.1%}", f"{figure['lowest']:.1%} – {figure['highest']:.1%}")
    Console().print(table)
    gain = figures["alone_home"]["mean"] - figures["fedavg"]["mean"]
    print(f"At home a plant's own head is {gain:+.1%} against FedAvg: one head for all does not suit everyone.")


def main() -> None:
    options, before = machine.parser(__doc__).parse_args(), machine.facts()
    chosen, overrides = (SEEDS[:1], ["federated.num_rounds=2", "data.image_size=64"]) if options.small else (SEEDS, [])
    seeds = [one_seed(seed, *overrides) for seed in chosen]
    figures = summary(seeds)
    show(figures)
    by_seed = {str(seed): result for seed, result in zip(chosen, seeds, strict=True)}
    print(machine.save("solar", before, {"accuracy": figures, "by_seed": by_seed}, small=options.small))


if __name__ == "__main__":
    main()
