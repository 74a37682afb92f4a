"""Mistakes, through the command as users run it: lines on stderr, the exit status, no traceback, and nothing left
behind. Which mistakes there are is tested where they are found."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.commands import CONFIGURATION, OTHER, SMALL, refused, refused_in_one_line

from fedlens.tracking.run_dir import find_runs

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.mark.parametrize(
    ("line", "message", "status"),
    [
        ("run --fraction_fit 1.5", "federated.fraction_fit = 1.5: must be a number above 0", CONFIGURATION),
        ("run nowhere.yaml", "nowhere.yaml: no such file.", CONFIGURATION),
        ("run seed=1 nowhere.yaml", "'nowhere.yaml': must be key.sub=value (command line)", CONFIGURATION),
        (f"run seed={'9' * 5000}", "a number of 5,000 digits", CONFIGURATION),  # no file's name is so long
        ("run seed=\x01", "control character U+0001", CONFIGURATION),
        (f"run {SMALL} federated.quorum=11", "federated.quorum = 11: a round has only 10 clients", CONFIGURATION),
        (f"run {SMALL} federated.min_fit_clients=11", "federated.min_fit_clients=11, but the data has 10", OTHER),
        ("server attack.name=alie", "attack.name = 'alie': attacks are for simulations", CONFIGURATION),
        ("resume logs/old", "'logs/old' does not exist", CONFIGURATION),
        ("sweep seed=1", "nothing to sweep over: give at least one key several values", CONFIGURATION),
        ("sweep seed=0,1 federated.fraction_fit=0.5,1.5", "federated.fraction_fit = 1.5: must be", CONFIGURATION),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(line: str, message: str, status: int) -> None:
    refused_in_one_line(line, message, status=status)
    assert not Path("logs").exists() or not find_runs(Path("logs"))


def test_several_mistakes_come_together_with_their_places() -> None:
    Path("mine.yaml").write_text(
        "model:\n  name: resnt18\nfederated:\n  fraction_fit: 1.5\nstrategy:\n  name: fedpro\n"
    )
    lines = refused("run mine.yaml seed=-1", CONFIGURATION)
    assert {(line.split()[0], line.rpartition("(")[2]) for line in lines} == {
        ("model.name", "mine.yaml, line 2)"),
        ("federated.fraction_fit", "mine.yaml, line 4)"),
        ("strategy.name", "mine.yaml, line 6)"),
        ("seed", "command line)"),
    }
