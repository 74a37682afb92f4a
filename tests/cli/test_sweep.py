"""`fedlens sweep` with real, tiny runs: the whole grid once, only the rest after a stop, nothing at all when one
combination is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.commands import command
from tests.photos import photos

from fedlens.build.load import load
from fedlens.reports.compare import compare_runs
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.one_line import OneLine
from fedlens.tracking.run_dir import RunDir, find_runs

SWEEP = (
    "sweep data.path=data model.name=lenet federated.num_rounds=2 runtime.name=in_process tracking.tensorboard=false "
    "tracking.report=false optimizer.lr=0.1,0.01 strategy.name=fedavg,fedprox"
)
GRID = [(0.1, "fedavg"), (0.1, "fedprox"), (0.01, "fedavg"), (0.01, "fedprox")]


@pytest.fixture(autouse=True)
def photographs_of_two_clients(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for client in ("north", "south"):
        photos(Path("data", client), each=4)


def combinations() -> list[tuple[float, str]]:
    configs = [load(run.config) for run in find_runs(Path("logs/sweep"))]
    return [(config.optimizer.lr, config.strategy.name) for config in configs]


def rounds(run: RunDir) -> list[int]:
    return [line["round"] for line in read_metrics(run.metrics)]


def test_after_a_stop_the_same_command_does_the_rest(monkeypatch) -> None:
    class Impatient(OneLine):
        """A user who presses Ctrl-C in the first round of the second run."""

        runs = 0

        def round(self, record) -> None:
            super().round(record)
            Impatient.runs += record.round == 1
            if Impatient.runs == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedlens.tracking.one_line.OneLine", Impatient)
        stopped = command(SWEEP)
    assert stopped.exit_code == 130, stopped.output
    whole, half = find_runs(Path("logs/sweep"))
    assert whole.result.exists()
    assert not half.result.exists()
    before = whole.metrics.read_bytes()

    result = command(SWEEP)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("done before") == 1
    assert sorted(combinations()) == sorted(GRID)
    assert [rounds(run) for run in find_runs(Path("logs/sweep"))] == [[1, 2]] * 4
    assert half.result.exists()  # gone on with, not begun again
    assert whole.metrics.read_bytes() == before
    assert [row["status"] for row in compare_runs([Path("logs/sweep")])] == ["finished"] * 4
    assert "Again: fedlens compare logs/sweep" in result.stdout

    again = command(SWEEP)
    assert again.exit_code == 0
    assert again.stdout.count("done before") == 4
    assert "left" not in again.stdout  # an estimate is shown only where something is run
    assert len(combinations()) == 4


def test_a_value_from_the_command_line_is_not_put_down_to_the_file() -> None:
    Path("config.yaml").write_text("optimizer:\n  lr: 0.1\n")
    result = command("sweep config.yaml optimizer.lr=0.1,xx")
    assert result.stderr == "optimizer.lr = 'xx': must be a number above 0 (command line)\n"
