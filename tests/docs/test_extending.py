"""The blocks that docs/extending.md prints do what it says of them, with their own names and numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.docs.snippets import ROOT, blocks
from torch import nn
from torch.utils.data import TensorDataset

import fedlens
from fedlens.aggregation.base import rules
from fedlens.aggregation.gathered import Updates
from fedlens.attacks.base import AttackContext, attacks
from fedlens.clocks.base import clocks
from fedlens.config.blocks import FAMILIES
from fedlens.config.plugins import load_plugins
from fedlens.data.base import ToPartition, schemes
from fedlens.strategies.base import strategies

FILES = {block.title: block.body for block in blocks(ROOT / "docs" / "extending.md") if block.title}


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's files in the current folder; what they register is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    for name, body in FILES.items():
        Path(name).write_text(body, encoding="utf-8")
    for family in FAMILIES.values():
        family.registry.names()
        monkeypatch.setattr(family.registry, "_entries", dict(family.registry._entries))
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


def test_a_complete_strategy_takes_under_40_lines() -> None:
    assert len(FILES["my_scaffold.py"].splitlines()) < 40


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
