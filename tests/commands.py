"""The command line in the process of the tests."""

from __future__ import annotations

import shlex
from pathlib import Path

from typer.testing import CliRunner, Result

from fedlens.cli.main import app
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import find_runs

SMALL = (
    "model.name=lenet federated.num_rounds=1 runtime.name=in_process tracking.tensorboard=false tracking.report=false"
)
CONFIGURATION, OTHER = 2, 1
"""Exit statuses."""


def command(line: str) -> Result:
    return CliRunner().invoke(app, shlex.split(line))


def refused(line: str, status: int) -> list[str]:
    """The lines of the error; there is no traceback, and nothing is trained."""
    result = command(line)
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert "round 1" not in result.stdout
    return result.stderr.splitlines()


def refused_in_one_line(line: str, *parts: str, status: int = CONFIGURATION) -> None:
    (message,) = refused(line, status)
    for part in parts:
        assert part in message


def done(line: str) -> tuple[str, list[dict]]:
    """What a run that works prints, and its metrics."""
    result = command(f"{line} {SMALL}")
    assert result.exit_code == 0, result.output
    (run,) = find_runs(Path("logs"))
    return result.stdout, read_metrics(run.metrics)
