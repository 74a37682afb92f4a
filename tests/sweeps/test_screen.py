"""How long a sweep says that it will take."""

from __future__ import annotations

import pytest

from fedlens.config.schema import Config
from fedlens.sweeps import screen
from fedlens.sweeps.points import Point


def test_the_start_of_a_run_is_not_taken_for_the_time_of_a_round(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four runs of 100 rounds, two at a time. Both first ones start in 8 s, and the first round comes 1 s later: 399
    rounds of 1 s are left, and the start of two runs, 8 s at a time for two: 9 + 399 + 8 = 416 s are 7 minutes. 9 s a
    round would be an hour."""
    now = 50.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    a, b = (Point(name, Config()) for name in "ab")
    shown = screen.SweepScreen(dict.fromkeys("abcd", 100), {}, at_once=2)
    now += 8
    shown.began(a, 0)
    shown.began(b, 0)
    now += 1
    shown.round(a, 1, None)
    assert "about 7 min for all of it" in capsys.readouterr().out
    now += 91
    shown.round(b, 99, None)
    shown.told("a", "50 %")  # 199 rounds in 100 s: 201 take 101 s
    shown.close()
    assert "about 2 min left" in capsys.readouterr().out
