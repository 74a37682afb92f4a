"""What a Python program hands over: the run says so, and no hint leads to a run on something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.problems import refuses, refuses_with
from torch.utils.data import Subset, TensorDataset

import fedlens
from fedlens.build.load import load_saved
from fedlens.core.files import read_json
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
