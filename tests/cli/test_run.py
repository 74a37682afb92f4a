"""`fedlens run`, `resume` and `sweep`: how arguments become a configuration. Nothing is trained here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.commands import command

from fedlens import api
from fedlens.cli.sweep import short_names
from fedlens.config.load import dump
from fedlens.errors import DataError
from fedlens.tracking.run_dir import find_runs


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


class Sweep:
    """Stands in for training: writes what a run leaves behind, finished or not."""

    def __init__(self, monkeypatch, outcomes):
        self.started: list[str] = []
        self.resumed: list[Path] = []
        self.outcomes = dict(outcomes)
        monkeypatch.setattr(api, "run", self.run)
        monkeypatch.setattr(api, "resume", self.resume)

    def run(self, config, *, show):
        self.started.append(config.tracking.name)
        folder = config.tracking.dir / f"run{len(list(config.tracking.dir.glob('run*')))}"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").write_text(dump(config))
        self._end(folder, self.outcomes.get(config.tracking.name))

    def resume(self, folder, *, show):
        self.resumed.append(folder)
        self._end(folder, None)

    def _end(self, folder, outcome):
        if outcome:
            raise outcome
        (folder / "result.json").write_text("{}")


def test_a_sweep_runs_the_grid_and_again_only_what_is_left(monkeypatch):
    labels = ["seed=0 strategy=fedavg", "seed=0 strategy=fedprox", "seed=1 strategy=fedavg", "seed=1 strategy=fedprox"]
    line = "sweep seed=0,1 strategy.name=fedavg,fedprox model.name=cnn"
    first = Sweep(monkeypatch, {labels[1]: DataError("broken"), labels[2]: KeyboardInterrupt()})
    result = command(line)
    assert result.exit_code == 130
    assert first.started == labels[:3]
    assert f"{labels[1]}: broken" in result.stderr

    again = Sweep(monkeypatch, {})
    result = command(line)
    assert result.exit_code == 0
    first, *rest = [line.split() for line in result.stdout.splitlines() if re.match(r"\d/4", line)]
    assert first[:3] == ["1/4", *labels[0].split()]
    assert first[-2:] == ["done", "before"]
    assert [line[0] for line in rest] == ["2/4", "3/4", "4/4"]
    assert "resumed" in rest[0]
    assert "left" in rest[1]
    assert result.stdout.count("fedprox") >= 4  # in its own line, and in the table at the end
    assert again.resumed == [Path("logs/sweep/run1"), Path("logs/sweep/run2")]
    assert again.started == labels[3:]
    assert len(find_runs(Path("logs/sweep"))) == 4


def test_a_sweep_with_a_failed_run_says_so_at_the_end(monkeypatch):
    Sweep(monkeypatch, {"seed=0": DataError("broken")})
    result = command("sweep seed=0,1 --name mine")
    assert result.exit_code == 1
    assert "1 of 2 runs failed: seed=0" in result.stderr
    assert "fedlens compare logs/mine" in result.stdout


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["optimizer.lr", "seed", "strategy.name"], ["lr", "seed", "strategy"]),
        (["optimizer.lr", "personalization.lr"], ["optimizer.lr", "personalization.lr"]),  # or they would be mixed up
    ],
)
def test_a_sweep_names_runs_by_what_differs(keys, expected):
    assert list(short_names(keys).values()) == expected
