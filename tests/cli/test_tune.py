"""`fedlens tune` with real, tiny runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.commands import command, refused, refused_in_one_line
from tests.photos import photos

from fedlens.build.load import load
from fedlens.tracking.run_dir import RunDir, find_runs

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
TUNE = (
    "tune data.path=data model.name=lenet federated.num_rounds=2 data.validation=0.3 runtime.name=in_process "
    "tracking.tensorboard=false tracking.report=false optimizer.lr=log:0.001:1 strategy.mu=0.01,0.1 "
    "--for strategy.name=fedavg,fedprox --trials 2"
)


@pytest.fixture(autouse=True)
def photographs_of_two_clients(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for client in ("north", "south"):
        photos(Path("data", client), each=4)


def test_a_configuration_for_each_method_and_a_page() -> None:
    result = command(TUNE)
    assert result.exit_code == 0, result.output
    assert "note: strategy=fedavg: without strategy.mu, which it does not have" in result.stdout
    assert "4 trials of 2 rounds" in result.stdout
    assert "4/4  " in result.stdout
    assert "fedlens sweep logs/tune/strategy=fedprox.yaml seed=1:4 --name strategy=fedprox-seeds" in result.stdout
    runs = find_runs(Path("logs/tune"))
    assert len(runs) == 4
    found = load(Path("logs/tune/strategy=fedprox.yaml"))
    assert (found.strategy.name, found.tracking.dir) == ("fedprox", Path("logs"))
    tried = [(one.strategy.name, one.optimizer.lr) for one in (load(run.config) for run in runs)]
    assert ("fedprox", found.optimizer.lr) in tried
    assert f"lr={found.optimizer.lr}" in result.stdout
    assert "strategy=fedprox" in Path("logs/tune/tune.html").read_text()

    again = command(TUNE)
    assert "all 4 trials are done" in again.stdout
    assert again.stdout.splitlines()[-6:] == result.stdout.splitlines()[-6:]
    assert len(find_runs(Path("logs/tune"))) == 4

    more = command(TUNE.replace("--trials 2", "--trials 3"))
    assert "2 trials of 6 of 2 rounds" in more.stdout
    assert len(find_runs(Path("logs/tune"))) == 6

    other = TUNE.replace("log:0.001:1", "log:0.01:1")
    assert "another configuration or over other ranges" in refused(other, 2)[-1]


def test_a_search_that_cannot_be_made() -> None:
    plain = TUNE.partition(" --for")[0].replace("strategy.mu=0.01,0.1", "")
    refused_in_one_line(plain.replace("optimizer.lr=log:0.001:1", ""), "nothing to search over")
    refused_in_one_line(f"{plain} --for strategy.name=fedavg", "--for strategy.name=fedavg", "two or more values")
    refused_in_one_line(f"{plain} data.validation=0", "data.validation = 0", "data.validation=0.1")
    refused_in_one_line(f"{plain} federated.evaluate_every=0", "federated.evaluate_every = 0")
    refused_in_one_line(f"{plain} seed=0:5", "the luckiest one")
    refused_in_one_line(f"{plain} personalization.name=ditto", "personalization.name = ditto", "such as fedper")
    refused_in_one_line(f"{plain} personalization.name=none,ditto", "personalization.name = ditto")
    refused_in_one_line(f"{plain} optimizer.rate=log:0.1:1", "optimizer.rate", "unknown key")
    assert not Path("logs").exists()


def test_where_every_trial_fails_the_reason_is_told() -> None:
    Path("empty").mkdir()
    line = TUNE.replace("data.path=data", "data.path=empty").partition(" --for")[0].replace("strategy.mu=0.01,0.1", "")
    result = command(f"{line} --trials 1")
    assert result.exit_code == 1
    assert "no trial came to its end of the search: " in result.stderr.splitlines()[-1]
    assert "empty" in result.stderr.splitlines()[-1]


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused_in_one_line(TUNE, "pip install 'fedlens[tune]'")


def test_a_second_search_leaves_the_first_one_alone() -> None:
    """Also a line that the first one is just writing."""
    assert command(TUNE).exit_code == 0
    trials = Path("logs/tune/trials.jsonl")
    with trials.open("a") as file:
        file.write('{"op_code": 4')
    before = trials.read_bytes()
    code = f"from tests.commands import command; print(command({TUNE!r}).stderr)"
    with RunDir(Path("logs/tune")).exclusive_lock():
        second = subprocess.run(
            [sys.executable, "-c", code], env=ENVIRONMENT, check=True, capture_output=True, text=True
        )
    assert "'logs/tune': another process is training this run" in second.stdout
    assert trials.read_bytes() == before
