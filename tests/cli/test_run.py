"""`fedlens run` and `resume`: how arguments become a configuration. Nothing is trained here."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.commands import command

from fedlens import api


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def calls(monkeypatch):
    """What the commands ask of the Python interface: (function, positional arguments)."""
    seen: list[tuple[str, tuple[object, ...]]] = []
    monkeypatch.setattr(api, "run", lambda *arguments, show: seen.append(("run", arguments)))
    monkeypatch.setattr(api, "resume", lambda *arguments, show: seen.append(("resume", arguments)))
    return seen


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run", (None,)),
        ("run config.yaml", (Path("config.yaml"),)),
        ("run config.yaml model.name=resnet50 seed=1", (Path("config.yaml"), "model.name=resnet50", "seed=1")),
        ("run seed=1", (None, "seed=1")),
        ("run --num_rounds 3 --fraction_fit 0.5", (None, "federated.num_rounds=3", "federated.fraction_fit=0.5")),
        ("run --num-rounds 3 --min-fit-clients 2", (None, "federated.num_rounds=3", "federated.min_fit_clients=2")),
        ("run --model timm:resnet10t --name 2024", (None, "model.name=timm:resnet10t", "tracking.name=2024")),
        ("run seed=1 --model cnn", (None, "seed=1", "model.name=cnn")),
    ],
)
def test_arguments_become_a_file_and_overrides(calls, line, expected):
    assert command(line).exit_code == 0
    assert calls == [("run", expected)]


def test_without_a_file_it_says_that_defaults_are_used(calls):
    assert "No configuration file given: defaults." in command("run").stdout
    assert "is not used" not in command("run").stdout
    Path("config.yaml").touch()
    assert "The config.yaml in this folder is not used" in command("run").stdout
    assert "No configuration file" not in command("run config.yaml").stdout


def test_resume_passes_folder_and_overrides(calls):
    assert command("resume logs/a federated.num_rounds=4").exit_code == 0
    assert calls == [("resume", (Path("logs/a"), "federated.num_rounds=4"))]
