"""MLflow and Weights & Biases beside real processes: one that is killed and goes on, and several of a sweep at once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.flower.processes import until
from tests.photos import photos
from tests.started import Started
from tests.test_trackers import mlflow_curve, mlflow_run, told, wandb_curve, without_time

from fedlens.tracking.run_dir import find_runs

pytestmark = pytest.mark.slow


def settings(base: Path) -> tuple[str, ...]:
    return (
        f"data.path={photos(base / 'photos', each=40)}",
        f"tracking.dir={base / 'logs'}",
        *("model.name=lenet", "federated.num_rounds=5", "data.partition.clients=3", "runtime.workers=1"),
        *("tracking.mlflow=true", "tracking.wandb=true", "tracking.tensorboard=false", "tracking.report=false"),
    )


def finish(*arguments: str) -> str:
    status, output = Started(*arguments).ended()
    assert status == 0, output
    return output


def has_every_round_once(run: Path, rounds: int) -> None:
    expected = without_time(told(run))
    assert [number for number, _ in expected["test/loss"]] == list(range(1, rounds + 1))
    client, found = mlflow_run(run.parent, run.name)
    assert {tag: mlflow_curve(client, found, tag) for tag in expected} == expected
    assert {tag: wandb_curve(run, tag) for tag in expected} == expected


def test_a_run_that_was_killed_twice(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    arguments = ("run", *settings(tmp_path))
    for lines in (2, 3):
        process = Started(*arguments)
        until(lambda: any(p.read_bytes().count(b"\n") >= lines for p in logs.glob("*/metrics.jsonl")), "rounds")  # noqa: B023
        os.killpg(process.pid, signal.SIGKILL)
        process.ended(20)
        (run,) = find_runs(logs)
        arguments = ("resume", str(run.path))
    finish(*arguments)
    has_every_round_once(run.path, 5)


def test_runs_of_a_sweep_at_once(tmp_path: Path) -> None:
    """All of them make the database, or want to."""
    output = finish("sweep", *settings(tmp_path), "federated.num_rounds=2", "seed=0:3", "--jobs", "3", "--yes")
    assert "tracking." not in output
    found = find_runs(tmp_path / "logs" / "sweep")
    assert len(found) == 3
    for run in found:
        has_every_round_once(run.path, 2)
