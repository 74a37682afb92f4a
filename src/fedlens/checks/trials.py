"""Small runs with a block of one's own, on made-up images: does it train, repeat, resume, and work in workers?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from fedlens import api
from fedlens.build.builders import build_scheme
from fedlens.build.experiment import build_experiment
from fedlens.build.runtimes import client_infos
from fedlens.checks import contracts
from fedlens.checks.contracts import Broken
from fedlens.config.blocks import AGGREGATION, MODEL, OPTIMIZER, SCHEME, SOURCE, STRATEGY, Family
from fedlens.config.schema import Config
from fedlens.core.registry import Entry
from fedlens.data.base import ToPartition
from fedlens.data.user import from_datasets
from fedlens.models.base import ModelRequest

CLIENTS, IMAGES, CLASSES, SIDE = 5, 24, 3, 28
"""Images of one client; side in pixels."""

CLOSE = 1e-5
"""How far two runs with different numbers of workers may be apart: sums have another order."""


@dataclass
class Trial:
    """One block of a plugin.

    plugin  the file
    keys    further overrides, "section.key=value": parameters without a default, or what the block needs beside it
    folder  for the runs
    """

    family: Family[Any]
    entry: Entry[Any]
    plugin: Path
    keys: Sequence[str]
    folder: Path
    _runs: int = field(default=0, init=False)

    def run(self, rounds: int = 2, *more: str) -> api.Run:
        self._runs += 1
        place = f"tracking.dir={self.folder / str(self._runs)}"
        rounds_ = f"federated.num_rounds={rounds}"
        return api.run(self._settings, *self.keys, rounds_, place, *more, data=self._data, show=False)

    def resume(self, done: api.Run, rounds: int) -> api.Run:
        return api.resume(done.folder, f"federated.num_rounds={rounds}", data=self._data, show=False)

    @cached_property
    def whole(self) -> Mapping[str, Tensor]:
        """The model after two rounds."""
        done = self.run()
        failed = [failure["reason"] for failures in done.metrics["failures"] for failure in failures]
        if failed:
            raise Broken(f"a client failed: {failed[0]}")
        return weights(done)

    def block(self) -> Any:
        """The block, with the parameters that `keys` give."""
        return self.family.choose(attrgetter(self.family.section)(self.config))

    @cached_property
    def config(self) -> Config:
        return api.resolve(self._settings, self.keys)

    @property
    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "plugins": [str(self.plugin)],
            "model.name": "lenet",
            "federated.batch_size": 8,
            "data.partition.clients": CLIENTS,
            "runtime.name": "in_process",
            "tracking.tensorboard": False,
            "tracking.report": False,
            f"{self.family.section}.{self.family.key}": self.entry.name,
        }
        lr = self.entry.factory.usual_lr if self.family is OPTIMIZER else 0.05
        return {**settings, "optimizer.lr": lr}

    @property
    def _data(self) -> TensorDataset | None:
        return None if self.family is SOURCE else made_up()


def made_up() -> TensorDataset:
    """Grey noise whose brightness is its class: uint8 (N, 28, 28, 1)."""
    count = CLIENTS * IMAGES * 2
    labels = torch.arange(count) % CLASSES
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 80, (count, SIDE, SIDE, 1), np.uint8))
    return TensorDataset(noise + (60 * labels).to(torch.uint8)[:, None, None, None], labels)


def weights(run: api.Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference of two models."""
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def checks_of(trial: Trial) -> dict[str, Callable[[], None]]:
    """What the block has to pass, by name."""
    own = {
        MODEL.section: {"shapes, and first weights from the seed": lambda: _shapes(trial)},
        STRATEGY.section: {"a server between machines takes what clients send": lambda: _results(trial)},
        AGGREGATION.section: {"order of arrival does not matter, updates stay as they are": lambda: _rule(trial)},
        SOURCE.section: {"every image has a class; the same images again": lambda: _table(trial)},
        SCHEME.section: {"every image to one client at most; the same division again": lambda: _scheme(trial)},
    }
    return {
        **own.get(trial.family.section, {}),
        "trains": lambda: _trains(trial),
        "the same seed gives the same bits": lambda: _repeats(trial),
        "two rounds are one round and a resume": lambda: _resumes(trial),
        "two worker processes train as one": lambda: _in_workers(trial),
    }


def _shapes(trial: Trial) -> None:
    builder = trial.block()
    for channels in (1, 3):
        contracts.model_shapes(builder, ModelRequest(7, builder.default_image_size, channels))


def _results(trial: Trial) -> None:
    config, quiet = trial.config, lambda _label: lambda _done, _all: None
    data = from_datasets(
        made_up(),
        scheme=build_scheme(config),
        clients=CLIENTS,
        validation=config.data.validation,
        client_test=config.data.client_test,
        test_fraction=config.data.test,
        seed=config.seed,
    )
    experiment = build_experiment(config, trial.folder, quiet, model=None, data=data)
    client = client_infos(data, experiment.device)[0]
    contracts.results_as_expected(experiment.algorithm.strategy, experiment.trainer, client)


def _rule(trial: Trial) -> None:
    generator = torch.Generator().manual_seed(0)
    centre = {"layer": torch.randn(5, 3, generator=generator), "running_mean": torch.randn(5, generator=generator)}
    near = [
        {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in centre.items()}
        for _ in range(7)
    ]
    contracts.rule_combines(trial.block(), near, frozenset({"layer"}))


def _table(trial: Trial) -> None:
    contracts.table_is_whole(trial.block().load(), trial.block().load())


def _scheme(trial: Trial) -> None:
    labels = np.arange(CLIENTS * IMAGES * 2) % CLASSES
    names = tuple(f"class {number}" for number in range(CLASSES))
    natural = np.array([f"client{row % CLIENTS}" for row in range(len(labels))])
    contracts.scheme_deals(trial.block(), ToPartition(labels, names, CLIENTS, seed=1, natural=natural))


def _trains(trial: Trial) -> None:
    for name, value in trial.whole.items():
        if not bool(torch.isfinite(value).all()):
            raise Broken(f"{name} is not finite after two rounds: try a smaller optimizer.lr=…")


def _repeats(trial: Trial) -> None:
    if difference := apart(trial.whole, weights(trial.run())):
        raise Broken(
            f"two runs with one seed are {difference:.2g} apart: draw chance only from fedlens.core.seeds.derive(…), "
            "and keep nothing in global variables, in the class or in the object"
        )


def _resumes(trial: Trial) -> None:
    resumed = trial.resume(trial.run(1), 2)
    if difference := apart(trial.whole, weights(resumed)):
        raise Broken(
            f"a run that is resumed after one round ends {difference:.2g} from one that was not stopped: what is "
            "needed later belongs into the state that the hooks return (ServerState.extra, client_state, kept), not "
            "into the object"
        )


def _in_workers(trial: Trial) -> None:
    difference = apart(trial.whole, weights(trial.run(2, "runtime.name=local", "runtime.workers=2")))
    if difference > CLOSE:
        raise Broken(
            f"with two worker processes the model is {difference:.2g} from that of one process: what clients and "
            "server need of each other has to be sent (broadcast, finish), and results arrive in another order"
        )
