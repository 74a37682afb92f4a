"""The blocks that docs/extending.md prints do what it says of them, with their own names and numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.docs.snippets import ROOT, blocks
from tests.helpers import Memory, infos, tiny_data, tiny_trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import fedlens
from fedlens.aggregation.base import rules
from fedlens.aggregation.gathered import Updates
from fedlens.attacks.base import AttackContext, attacks
from fedlens.build.builders import build_table
from fedlens.build.load import load
from fedlens.clocks.base import clocks
from fedlens.compression.base import compressions
from fedlens.config.blocks import FAMILIES, OPTIMIZER
from fedlens.config.plugins import load_plugins
from fedlens.core.types import Task, TaskSettings
from fedlens.data.base import ToPartition, schemes
from fedlens.data.detect import detect
from fedlens.errors import ConfigError, DataError
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.strategies.base import strategies
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.screening import check
from fedlens.training.settings import LocalSettings
from fedlens.training.tasks.base import kind_of, task_kinds

FILES = {block.title: block.body for block in blocks(ROOT / "docs" / "extending.md") if block.title}


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's files in the current folder; what they register is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    for name, body in FILES.items():
        Path(name).write_text(body, encoding="utf-8")
    for registry in (*(family.registry for family in FAMILIES.values()), task_kinds):
        registry.names()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("fedlens_plugin_"):
            del sys.modules[name]


def data(clients: int) -> dict[str, TensorDataset]:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for number in range(clients):
        images = torch.rand(40, 1, 6, 6, generator=generator)
        brightness = images[:, 0, 0].mean(1) + 0.1 * number
        made[f"client{number}"] = TensorDataset(images, (3 * brightness).long().clamp(max=2))
    return made


def trained(strategy: str, clients: int) -> tuple[torch.Tensor, fedlens.Run]:
    settings = {
        "plugins": ["my_scaffold.py"],
        "strategy": {"name": strategy},
        "federated": {"num_rounds": 4, "min_fit_clients": 1, "batch_size": 8},
        "optimizer": {"momentum": 0.0, "lr": 0.2},
        "runtime": {"name": "in_process"},
        "tracking": {"tensorboard": False, "report": False},
    }
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    run = fedlens.run(settings, model=model, data=data(clients), show=False)
    return torch.cat([value.flatten() for value in run.model.parameters()]).detach(), run


def test_a_complete_strategy_takes_at_most_40_lines() -> None:
    assert len(FILES["my_scaffold.py"].splitlines()) <= 40


def test_scaffold_with_one_client_is_fedavg() -> None:
    """Its own control variate is then everybody's, c_i = c, and the correction is zero."""
    torch.testing.assert_close(trained("my_scaffold", 1)[0], trained("fedavg", 1)[0])


def test_scaffold_with_unequal_clients_is_not_and_keeps_what_it_needs() -> None:
    weights, run = trained("my_scaffold", 3)
    assert (weights - trained("fedavg", 3)[0]).norm() > 1e-3
    assert sorted(path.name for path in (run.folder / "clients").iterdir()) == ["client0", "client1", "client2"]
    assert run.metrics["bytes_up"].iloc[0] == 2 * 3 * 4 * weights.numel()  # update and control variate, float32


def test_scaffold_s_server_variate_is_the_mean_of_the_clients() -> None:
    """c ← c + |S|/N mean(c_i⁺ − c_i): with everybody in every round, c stays mean(c_i) = mean((x − y_i) / (K η))."""
    from safetensors.torch import load_file

    _, run = trained("my_scaffold", 3)
    server = load_file(run.folder / "checkpoints" / "round-00000004" / "state.safetensors")
    own = [load_file(run.folder / "clients" / f"client{number}" / "00000004.safetensors") for number in range(3)]
    for name in ("1.weight", "1.bias"):
        mean = torch.stack([tensors[f"strategy/{name}"] for tensors in own]).mean(0)
        torch.testing.assert_close(server[f"extra/{name}"], mean)


def test_a_source_of_a_plugin_claims_its_files(tmp_path: Path) -> None:
    """It is found by its path alone; a second plugin that claims the same file leaves the choice to the user."""
    file = tmp_path / "set.npz"
    np.savez(file, images=np.zeros((20, 8, 8, 3), np.uint8), labels=np.arange(20) % 4)
    config = load(None, (), {"data.path": str(file), "plugins": ["my_arrays.py"]})
    table, name = build_table(config.data)
    assert (name, len(table.labels), len(table.class_names)) == ("arrays", 20, 4)
    with pytest.raises(DataError, match=r"is neither a folder nor a \.csv, .* manifest nor an \.npz file"):
        detect(Path("my_arrays.py"))

    Path("twin.py").write_text(FILES["my_arrays.py"].replace('"arrays",', '"twin",'), encoding="utf-8")
    load_plugins([Path("twin.py")])
    with pytest.raises(DataError, match=r"choose data\.source=arrays or data\.source=twin"):
        detect(file)


def test_lion_steps_as_worked_out_by_hand() -> None:
    """θ ← θ − η (sign(β₁ m + (1 − β₁) g) + λ θ), m ← β₂ m + (1 − β₂) g, from m = 0."""
    config = load(None, ("optimizer.name=lion", "optimizer.weight_decay=0.1"), {"plugins": ["my_lion.py"]})
    lion = VectorOptimizer(OPTIMIZER.choose(config.optimizer), {})
    vector, gradient = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -0.25])
    lion.step(vector, gradient, 0.1)
    torch.testing.assert_close(vector, torch.tensor([1 - 0.1 * (1 + 0.1), -2 - 0.1 * (-1 - 0.2)]))
    torch.testing.assert_close(lion.state(), {"average": 0.01 * gradient})
    lion.step(vector, torch.tensor([-0.001, 0.0]), 0.1)  # the average outweighs a small gradient: 0.9 · 0.005 > 0.0001
    torch.testing.assert_close(vector, torch.tensor([0.89 - 0.1 * (1 + 0.089), -1.88 - 0.1 * (-1 - 0.188)]))


@pytest.mark.parametrize(("key", "value"), [("momentum", 0.5), ("beta3", 0.5)])
def test_a_key_that_the_optimizer_has_not_is_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.{key} = 0\.5: "):
        load(None, ("optimizer.name=lion", f"optimizer.{key}={value}"), {"plugins": ["my_lion.py"]})


def test_the_model_learns_colours() -> None:
    settings = {
        "plugins": ["my_model.py"],
        "model": {"name": "colours", "cells": 2},
        "optimizer": {"lr": 0.5},
        "federated": {"num_rounds": 4},
        "data": {"partition": {"scheme": "iid", "clients": 2}},
        "tracking": {"tensorboard": False, "report": False},
    }
    labels = torch.arange(200) % 3
    images = torch.randint(0, 120, (200, 3, 16, 16), dtype=torch.uint8)
    for channel in range(3):
        images[labels == channel, channel] += 100
    run = fedlens.run(settings, data=TensorDataset(images, labels), show=False)
    assert sum(value.numel() for value in run.model.parameters()) == 3 * 2 * 2 * 3 + 3
    assert run.metrics["test.accuracy"].iloc[-1] > 0.9


def test_the_scheme_gives_one_client_its_share() -> None:
    import numpy as np

    load_plugins([Path("my_data.py")])
    rows = ToPartition(np.zeros(100, np.int64), ("a",), clients=5, seed=1)
    parts = schemes.get("giant").build({"share": 0.6}).assign(rows)
    assert [len(part) for part in parts.values()] == [60, 10, 10, 10, 10]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(100))
    assert "giant" in schemes.names()
    assert "my_scaffold" not in strategies.names()


def test_the_rule_is_a_median_of_means() -> None:
    """Groups (1, 4), (2, 5) and (3, 60) of six updates: means 2.5, 3.5 and 31.5."""
    load_plugins([Path("my_rule.py")])
    rule = rules.get("median_of_means").build({})
    updates = [{"w": torch.tensor([value])} for value in (1.0, 2.0, 3.0, 4.0, 5.0, 60.0)]
    assert rule.combine(Updates(updates, [1.0] * 6, frozenset({"w"})))["w"].tolist() == [3.5]
    assert rule.incompatibility(10) is None
    assert "use aggregation.groups=5" in rules.get("median_of_means").build({"groups": 4}).incompatibility(10)


def test_free_riders_send_zeros() -> None:
    load_plugins([Path("my_attack.py")])
    attack = attacks.get("free_ride").build({})
    assert attack.crafts
    (sent,) = attack.craft([{"w": torch.ones(2)}], AttackContext(5, torch.Generator(), 0.2))
    assert sent["w"].tolist() == [0.0, 0.0]


def test_the_clock_keeps_between_its_bounds() -> None:
    load_plugins([Path("my_clock.py")])
    clock = clocks.get("between").build({"low": 2.0, "high": 5.0})
    seconds = [clock.seconds("a", 0, number) for number in range(200)]
    assert 2 <= min(seconds) < 2.2
    assert 4.8 < max(seconds) <= 5
    assert seconds == [clock.seconds("b", 0, number) for number in range(200)]


def test_the_task_kind_gives_the_loss_of_the_received_model(tmp_path: Path) -> None:
    load_plugins([Path("my_task.py")])
    data, client = tiny_data(clients=2), infos(tiny_data(clients=2))[1]
    trainer = tiny_trainer(FedAvg(), data, tmp_path / "clients", LocalSettings())
    task = Task("client1", 1, "training_loss", trainer.model.state())
    result = trainer.run(task)
    rows = data.clients[1].train
    with torch.no_grad():
        wanted = cross_entropy(trainer.model.module(data.images[rows].permute(0, 3, 1, 2) / 255), data.labels[rows])
    assert result.report.metrics["loss"].value == pytest.approx(float(wanted), rel=1e-4)
    check(result, task, kind_of("training_loss").expected(task, client, None))


@pytest.mark.parametrize("runtime", ["in_process", "local"])
def test_the_clients_with_the_largest_losses_train(runtime: str) -> None:
    """Four candidates, two of whom train: the model that answers 0 has the larger loss the rarer the class 0 is."""
    load_plugins([Path("my_task.py"), Path("my_rounds.py")])
    zeros = {"client0": 20, "client1": 5, "client2": 40, "client3": 0}
    sets = {name: TensorDataset(torch.rand(40, 1, 6, 6), (torch.arange(40) >= k).long()) for name, k in zeros.items()}
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    settings = {
        "schedule": {"name": "power_of_choice", "candidates": 4},
        "plugins": ["my_task.py", "my_rounds.py"],
        "data": {"validation": 0, "client_test": 0},
        "federated": {"num_rounds": 1, "fraction_fit": 0.5, "min_fit_clients": 1},
        "runtime": {"name": runtime},
        "tracking": {"tensorboard": False, "report": False},
    }
    memory = Memory()
    fedlens.run(settings, model=model, data=sets, show=False, trackers=[memory])
    assert sorted(report.client for report in memory.records[0].reports) == ["client1", "client3"]


def test_the_transform_halves_the_bytes_and_keeps_what_rounding_left_out(tmp_path: Path) -> None:
    load_plugins([Path("my_transform.py")])
    half = compressions.get("half_with_memory").build({})
    data, settings = tiny_data(clients=1), LocalSettings(batch_size=4)
    plain, halved = (
        tiny_trainer(Algorithm(FedAvg(), encodings=encodings), data, tmp_path / str(len(encodings)), settings)
        for encodings in ((), (half,))
    )
    shared = plain.model.state()
    first = Task("client0", 1, "train", shared, TaskSettings(lr=0.1))
    exact, sent = plain.run(first), halved.run(first)
    trained = plain.model.trainable
    assert all(sent.payload[name].nbytes == exact.payload[name].nbytes / 2 for name in trained)
    assert sent.report.metrics["bytes_up"].value < 0.6 * exact.report.metrics["bytes_up"].value
    kept = halved.kept_by_transforms(halved._store.read("client0", 1))
    received = halved.decode(sent).payload
    for name in trained:
        assert received[name].dtype == torch.float32
        torch.testing.assert_close(
            received[name] + kept[f"half_with_memory/{name}"], exact.payload[name], rtol=0, atol=1e-7
        )
    again = Task("client0", 2, "train", shared, TaskSettings(lr=0.0), store_version=1)
    assert any(halved.run(again).payload[name].any() for name in trained), "without training, the rest is sent"
    runtime = InProcessRuntime(infos(data), lambda: halved)
    runtime.submit([first])
    (total,) = runtime.completed()  # a worker decodes before it adds
    assert all(value.dtype == torch.float32 for value in total.payload.values())
