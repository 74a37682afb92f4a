"""`fedlens sweep` with real, tiny runs: the whole grid once, only the rest after a stop, nothing at all when one
combination is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.commands import command, refused_in_one_line
from tests.photos import photos

from fedlens.build.load import load
from fedlens.reports.compare import compare_runs
from fedlens.sweeps.points import Point
from fedlens.sweeps.screen import SweepScreen
from fedlens.tracking.metrics import read_metrics
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


def losses(name: str) -> dict[tuple[float, str], list[float]]:
    """Learning rate and strategy → the losses of the rounds."""
    found = [(load(run.config), read_metrics(run.metrics)) for run in find_runs(Path("logs", name))]
    return {(it.optimizer.lr, it.strategy.name): [line["train_loss"] for line in lines] for it, lines in found}


def rounds(run: RunDir) -> list[int]:
    return [line["round"] for line in read_metrics(run.metrics)]


def lines(text: str) -> list[list[str]]:
    """The words of every line about a run."""
    return [line.split() for line in text.splitlines() if line[:1].isdigit() and "/4" in line[:3]]


def test_after_a_stop_the_same_command_does_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(SweepScreen):
        """A user who presses Ctrl-C in the first round of the second run."""

        def round(self, point: Point, number: int, accuracy: float | None) -> None:
            super().round(point, number, accuracy)
            if self._finished == 1 and number == 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedlens.sweeps.screen.SweepScreen", Impatient)
        stopped = command(f"{SWEEP} --jobs 1")
    assert stopped.exit_code == 130, stopped.output
    assert "4 runs of 2 rounds, 1 at a time" in stopped.stdout
    assert stopped.stdout.endswith("Stopped. The same command again does the rest.\n")
    # here, and not below: the stopped run may have done both of its rounds, and then nothing is known of the others
    assert "left" in lines(stopped.stdout)[0]
    assert "for all of it" in stopped.stdout
    whole, half = find_runs(Path("logs/sweep"))
    assert whole.result.exists()
    assert not half.result.exists()
    before = whole.metrics.read_bytes()

    result = command(f"{SWEEP} --jobs 2")
    assert result.exit_code == 0, result.output
    assert "3 runs of 4 of 2 rounds, 2 at a time" in result.stdout
    first, *rest = lines(result.stdout)
    assert first[:3] == ["1/4", "lr=0.1", "strategy=fedavg"]
    assert first[-2:] == ["done", "before"]
    assert [line[0] for line in rest] == ["2/4", "3/4", "4/4"]
    assert sorted(combinations()) == sorted(GRID)
    assert [rounds(run) for run in find_runs(Path("logs/sweep"))] == [[1, 2]] * 4
    assert half.result.exists()  # gone on with, not begun again
    assert whole.metrics.read_bytes() == before
    assert [row["status"] for row in compare_runs([Path("logs/sweep")])] == ["finished"] * 4
    assert "Again: fedlens compare logs/sweep" in result.stdout

    again = command(SWEEP)
    assert again.exit_code == 0
    assert "all 4 runs are done" in again.stdout
    assert again.stdout.count("done before") == 4
    assert "left" not in again.stdout  # an estimate is shown only where something is run
    assert len(combinations()) == 4


def test_what_is_run_at_once_is_what_is_run_alone() -> None:
    """Bit for bit, with the same number of workers."""
    for jobs, name in ((1, "one"), (2, "two")):
        assert command(f"{SWEEP} --jobs {jobs} --name {name}").exit_code == 0
    two, one = (
        {str(load(run.config).optimizer) + load(run.config).strategy.name: run for run in find_runs(Path("logs", name))}
        for name in ("two", "one")
    )
    assert len(one) == len(two) == 4
    for key, run in one.items():
        losses, others = ([line["train_loss"] for line in read_metrics(each.metrics)] for each in (run, two[key]))
        assert losses == pytest.approx(others, rel=1e-5)


def test_a_failed_run_is_named_and_the_others_are_done() -> None:
    """One of two folders has no images."""
    Path("empty").mkdir()
    line = SWEEP.replace("data.path=data", "data.path=data,empty").replace("optimizer.lr=0.1,0.01", "")
    result = command(f"{line} --name mine")
    assert result.exit_code == 1
    assert "2 of 4 runs failed: path=empty strategy=fedavg; path=empty strategy=fedprox" in result.stderr
    assert "failed" in result.stdout
    assert [row["status"] for row in compare_runs([Path("logs/mine")])] == ["finished"] * 2
    assert "fedlens compare logs/mine" in result.stdout


def test_cases_lists_and_zips_in_one_command() -> None:
    small = SWEEP.replace("optimizer.lr=0.1,0.01 strategy.name=fedavg,fedprox", "federated.num_rounds=1")
    cases = "--case 'a: strategy.name=fedavg' --case 'b: personalization.name=local'"
    result = command(f"{small} {cases} --zip 'seed=0,1 optimizer.lr=0.1,0.2'")
    assert result.exit_code == 0, result.output
    configs = [load(run.config) for run in find_runs(Path("logs/sweep"))]
    assert sorted((one.personalization.name, one.seed, one.optimizer.lr) for one in configs) == [
        ("local", 0, 0.1), ("local", 1, 0.2), ("none", 0, 0.1), ("none", 1, 0.2),
    ]  # fmt: skip


def test_a_file_says_everything_and_names_the_folder() -> None:
    Path("rates.yaml").write_text(
        "config:\n  data.path: data\n  model.name: lenet\n  federated.num_rounds: 1\n  runtime.name: in_process\n"
        "  tracking: {tensorboard: false, report: false}\ngrid: {optimizer.lr: [0.1, 0.01]}\n"
    )
    result = command("sweep --file rates.yaml")
    assert result.exit_code == 0, result.output
    assert sorted(load(run.config).optimizer.lr for run in find_runs(Path("logs/rates"))) == [0.01, 0.1]
    Path("config.yaml").write_text("seed: 1\n")
    refused_in_one_line("sweep config.yaml --file rates.yaml", "rates.yaml has a config of its own")


def test_many_runs_are_asked_about() -> None:
    line = SWEEP.replace("optimizer.lr=0.1,0.01", "seed=0:60")
    refused_in_one_line(line, "no run was begun, as nobody answers here", "--yes")
    assert not Path("logs").exists()
    refused_in_one_line("sweep nothing.yaml seed=0,1", "nothing.yaml")
    refused_in_one_line("sweep --file nothing.yaml", "nothing.yaml")


def test_a_value_from_the_command_line_is_not_put_down_to_the_file() -> None:
    Path("config.yaml").write_text("optimizer:\n  lr: 0.1\n")
    result = command("sweep config.yaml optimizer.lr=0.1,xx")
    assert result.stderr == "optimizer.lr = 'xx': must be a number above 0 (command line)\n"
