"""What was released is never forgotten."""

from __future__ import annotations

import pytest

from fedlens.errors import CheckpointError
from fedlens.privacy.ledger import Ledger, Spent

MECHANISM = {"name": "gaussian", "noise_multiplier": 1.0}


def test_every_release_is_on_disk_at_once(tmp_path):
    file = tmp_path / "privacy.jsonl"
    ledger = Ledger(file, MECHANISM)
    assert ledger.spent == Spent(0, 0)
    for number in (1, 2, 2, 3):  # round 2 was begun again
        ledger.spend(number)
        assert Ledger(file, MECHANISM).spent == ledger.spent
    assert ledger.spent == Spent(3, 1)


def test_a_line_that_a_crash_cut_off_counts(tmp_path):
    file = tmp_path / "privacy.jsonl"
    Ledger(file, MECHANISM).spend(1)
    with file.open("a") as text:
        text.write('{"rou')
    ledger = Ledger(file, MECHANISM)
    assert ledger.spent == Spent(2, 0)
    ledger.spend(2)
    assert ledger.spent == Ledger(file, MECHANISM).spent == Spent(2, 1)


def test_a_lost_ledger_counts_the_rounds_of_the_checkpoint(tmp_path):
    ledger = Ledger(tmp_path / "privacy.jsonl", MECHANISM)
    ledger.reach(4)
    assert ledger.spent == Spent(4, 0)
    ledger.reach(2)
    assert ledger.spent == Spent(4, 0)


def test_another_mechanism_and_a_damaged_file_are_refused(tmp_path):
    file = tmp_path / "privacy.jsonl"
    Ledger(file, MECHANISM).spend(1)
    with pytest.raises(CheckpointError, match=r"noise was name gaussian, noise_multiplier 1, .* noise_multiplier 0.5"):
        Ledger(file, {**MECHANISM, "noise_multiplier": 0.5})
    file.write_text("")
    with pytest.raises(CheckpointError, match="cannot be read, so nobody knows how much privacy is spent"):
        Ledger(file, MECHANISM)


def test_what_cannot_be_written_down_is_not_released(tmp_path):
    (tmp_path / "file").touch()
    ledger = Ledger(tmp_path / "file" / "privacy.jsonl", MECHANISM)
    with pytest.raises(CheckpointError, match="so nothing was released"):
        ledger.spend(1)
    assert ledger.spent == Spent(0, 0)
