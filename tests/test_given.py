"""What a Python program hands over: the run says so, and no hint leads to a run on something else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.photos import photos
from tests.problems import refuses, refuses_with
from torch.utils.data import Subset, TensorDataset

import fedlens
from fedlens.build.experiment import build_experiment
from fedlens.build.load import load_saved
from fedlens.core.files import read_json
from fedlens.errors import ConfigError
from fedlens.session.run import UserObjects, rebuild_trainer
from fedlens.strategies.base import ClientContext, LocalTerms, Strategy, strategies
from fedlens.strategies.fedavg import FedAvg
from fedlens.strategies.fedprox import FedProx
from fedlens.tracking.next_steps import next_commands, resuming

QUICK = [
    "model.name=lenet",
    "federated.num_rounds=1",
    "runtime.name=in_process",
    "tracking.tensorboard=false",
    "tracking.report=false",
]


def dataset(count: int = 60, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 255, (count, 28, 28, 1), dtype=torch.uint8, generator=generator)
    return TensorDataset(images, torch.arange(count) % 2)


def run(tmp_path: Path, *overrides: str, **given: Any) -> fedlens.Run:
    few = () if isinstance(given.get("data"), dict) else ("data.partition.scheme=iid", "data.partition.clients=2")
    return fedlens.run(None, *QUICK, *few, f"tracking.dir={tmp_path}", *overrides, show=False, **given)


def test_a_run_on_own_data_says_so_and_cannot_be_run_again_without_it(tmp_path: Path) -> None:
    done = run(tmp_path, data=dataset(), class_names=["cat", "dog"])
    file = done.folder / "config.yaml"
    assert load_saved(file).data.source == "python"
    assert read_json(done.folder / "data.json")["source"] == "python"
    assert read_json(done.folder / "data.json")["scheme"] == "iid"
    assert read_json(done.folder / "partition.json")["class_names"] == ["cat", "dog"]
    with refuses_with("missing", "data.source = 'python': the run's images were given from Python"):
        fedlens.run(file, f"tracking.dir={tmp_path}", show=False)
    with refuses(("missing", "data.source")):
        fedlens.resume(done.folder, "federated.num_rounds=2", show=False)
    again = fedlens.resume(done.folder, "federated.num_rounds=2", data=dataset(), show=False)
    assert len(again.metrics) == 2
    anew = fedlens.run(file, f"tracking.dir={tmp_path}", data=dataset(), show=False)
    assert anew.metrics.to_dict() != {}


def test_only_hints_that_can_work(tmp_path: Path) -> None:
    done = run(tmp_path, data=dataset())
    commands = next_commands(done.folder, f"fedlens run {done.folder}/config.yaml")
    assert [line.split()[:2] for line in commands] == [["fedlens", "predict"], ["tensorboard", "--logdir"]]
    assert resuming(str(done.folder), "fedlens resume") == f"fedlens.resume({str(done.folder)!r}, data=…)"


def test_data_from_python_takes_the_place_of_a_file_s_and_not_of_arguments(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: {source: sample, image_size: 28}\n")
    few = ("data.partition.scheme=iid", "data.partition.clients=2", f"tracking.dir={tmp_path / 'logs'}")
    done = fedlens.run(file, *QUICK, *few, data=dataset(), show=False)
    assert (done.config.data.source, done.config.data.image_size) == ("python", None)
    for override in ("data.source=sample", "data.path=/photos", "data.image_size=64"):
        with refuses(("idle_key", override.partition("=")[0])) as caught:
            run(tmp_path, override, data=dataset())
        assert "data= gives the images themselves; leave it out" in str(caught.value)
    with refuses(("idle_key", "data.test")):
        run(tmp_path, "data.test=0.3", data=dataset(), test=dataset(20, 1))
    with refuses(("idle_key", "data.partition.clients")):
        run(tmp_path, "data.partition.clients=3", data={"a": dataset(), "b": dataset(60, 1)})
    with refuses_with("contradiction", "class_names= needs data="):
        run(tmp_path, class_names=["a"])


def test_class_names_of_a_dataset(tmp_path: Path) -> None:
    own = dataset()
    own.classes = ["cat", "dog"]  # type: ignore[attr-defined]
    for data in (own, Subset(own, list(range(50)))):
        done = run(tmp_path, data=data)
        assert read_json(done.folder / "partition.json")["class_names"] == ["cat", "dog"]


class Own(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(28 * 28, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(images.flatten(1))
        return out


def test_a_model_from_python_is_named_so(tmp_path: Path) -> None:
    few = ("data.partition.scheme=iid", "data.partition.clients=2", f"tracking.dir={tmp_path}", *QUICK[1:])
    done = fedlens.run(None, *few, data=dataset(), model=Own(), show=False)
    assert done.config.model.name == "python"
    assert not any(line.startswith("fedlens predict") for line in next_commands(done.folder, "fedlens run x"))
    with refuses_with("missing", "model.name = 'python': the run's model was given from Python"):
        fedlens.run(done.folder / "config.yaml", f"tracking.dir={tmp_path}", data=dataset(), show=False)
    with refuses_with("idle_key", "model.name = 'lenet': model= gives the model itself; leave it out"):
        fedlens.run(None, *few, "model.name=lenet", data=dataset(), model=Own(), show=False)


@dataclass(frozen=True)
class Pulled(Strategy):
    """FedProx, handed over as an object."""

    pull: float = 0.5

    def terms(self, ctx: ClientContext) -> LocalTerms:
        return LocalTerms(correction=lambda parameters: self.pull * (parameters - ctx.start))


@dataclass(frozen=True)
class Holder(Strategy):
    value: Any = None


class NoDataclass(Strategy):
    pass


STEPS = ("federated.batch_size=8", "federated.local_epochs=2")  # a first step is not pulled


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    strategies.names()
    monkeypatch.setattr(strategies, "_entries", dict(strategies._entries))
    yield


def weights(done: fedlens.Run) -> torch.Tensor:
    return torch.cat([value.flatten() for value in done.model.state_dict().values()])


@pytest.mark.usefixtures("forgotten")
def test_a_strategy_from_python_trains_as_the_same_one_in_the_package(tmp_path: Path) -> None:
    own = run(tmp_path, *STEPS, data=dataset(), strategy=Pulled(0.1))
    there = run(tmp_path, *STEPS, "strategy.name=fedprox", "strategy.mu=0.1", data=dataset())
    stronger = run(tmp_path, *STEPS, data=dataset(), strategy=Pulled(1.0))
    assert torch.equal(weights(own), weights(there))
    assert not torch.equal(weights(own), weights(stronger))
    assert own.config.strategy.model_dump() == {"name": "python.Pulled", "pull": 0.1}
    assert own.folder.name.startswith("python.Pulled-lenet-")


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("workers", [(), ("runtime.name=local", "runtime.workers=2")], ids=["in process", "workers"])
def test_a_strategy_from_python_is_resumed_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    whole = run(tmp_path, *STEPS, *workers, "federated.num_rounds=2", data=dataset(), strategy=Pulled(0.1))
    half = run(tmp_path, *STEPS, *workers, data=dataset(), strategy=Pulled(0.1))
    strategies._entries.pop("python.Pulled")  # as in another process
    with refuses_with("missing", "strategy.name = 'python.Pulled': the run's strategy was given from Python"):
        fedlens.resume(half.folder, "federated.num_rounds=2", data=dataset(), show=False)
    with pytest.raises(ConfigError, match=r"the run has strategy.pull = 0.1, and not 0.2; give the same strategy"):
        fedlens.resume(half.folder, "federated.num_rounds=2", data=dataset(), strategy=Pulled(0.2), show=False)
    with pytest.raises(ConfigError, match=r"the run has strategy.name = 'python.Pulled', and not 'fedavg'"):
        fedlens.resume(half.folder, "federated.num_rounds=2", data=dataset(), strategy=FedAvg(), show=False)
    assert resuming(str(half.folder), "fedlens resume").endswith(", data=…, strategy=…)")
    resumed = fedlens.resume(half.folder, "federated.num_rounds=2", data=dataset(), strategy=Pulled(0.1), show=False)
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.usefixtures("forgotten")
def test_a_worker_that_inherits_nothing_knows_the_class_of_a_strategy(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", each=20)
    own = (f"data.path={folder}", "data.partition.clients=2", f"tracking.dir={tmp_path}")
    config = fedlens.run(None, *QUICK, *own, strategy=Pulled(0.1), show=False).config
    quiet = lambda _label: lambda _done, _all: None  # noqa: E731
    holdings = build_experiment(config, tmp_path, quiet, model=None, data=None).holdings
    strategies._entries.pop("python.Pulled")
    trainer = rebuild_trainer(config, tmp_path, UserObjects(strategy=Pulled(0.1)), holdings)
    assert trainer.algorithm.strategy == Pulled(0.1)


@pytest.mark.usefixtures("forgotten")
def test_a_strategy_of_the_package_keeps_its_name(tmp_path: Path) -> None:
    done = run(tmp_path, data=dataset(), strategy=FedProx(mu=0.3))
    assert done.config.strategy.model_dump() == {"name": "fedprox", "mu": 0.3}


@pytest.mark.usefixtures("forgotten")
def test_a_strategy_from_python_replaces_that_of_a_file_and_stands_beside_no_argument(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("strategy: {name: fedprox, mu: 0.3}\n")
    few = (*QUICK, "data.partition.clients=2", f"tracking.dir={tmp_path}")
    done = fedlens.run(file, *few, data=dataset(), strategy=Pulled(), show=False)
    assert done.config.strategy.model_dump() == {"name": "python.Pulled", "pull": 0.5}
    with refuses(("idle_key", "strategy.mu")):
        fedlens.run(file, *few, "strategy.mu=1", data=dataset(), strategy=Pulled(), show=False)
    with refuses(("idle_key", "strategy")):
        fedlens.run({"strategy": {"name": "fedavg"}}, *few, data=dataset(), strategy=Pulled(), show=False)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (NoDataclass(), "NoDataclass is not a dataclass that derives from"),
        (object(), "object is not a dataclass that derives from"),
        (Pulled, "type is not a dataclass that derives from"),
        (Holder(torch.zeros(2)), "the fields of Holder are its configuration keys"),
        (Holder((1, 2)), "the fields of Holder are its configuration keys"),
    ],
)
def test_what_is_no_strategy_is_refused_in_one_line(tmp_path: Path, strategy: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, data=dataset(), strategy=strategy)
    assert str(caught.value).startswith(f"strategy=: {line}")
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())
