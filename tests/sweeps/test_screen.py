"""How long a sweep says that it will take."""

from __future__ import annotations

import pytest

from fedlens.config.schema import Config
from fedlens.sweeps import screen
from fedlens.sweeps.points import Point


def test_the_start_of_a_run_is_not_taken_for_the_time_of_a_round(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four runs of 100 rounds, two at a time. The first rounds of two end after 10 s, then each does a round in 2 s, so
    that a second has one. After 14 s five rounds are done, four since the first one, and 395 are left; two runs have
    not begun, at 10 s for two: 14 + 395 · 4/4 + 10 = 419 s are 7 minutes. 14 s for five rounds would be 19 minutes."""
    now = 50.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    a, b = (Point(name, Config()) for name in "ab")
    shown = screen.SweepScreen(dict.fromkeys("abcd", 100), {}, at_once=2)
    shown.began(a, 0)
    shown.began(b, 0)
    now += 10
    for number in (1, 2):
        shown.round(a, number, None)
        shown.round(b, number, None)
        now += 2
    assert "for all of it" not in capsys.readouterr().out
    shown.round(b, 3, None)
    shown.round(a, 3, None)
    assert "about 7 min for all of it" in capsys.readouterr().out
    now += 86
    shown.round(b, 99, None)
    shown.told("a", "50 %")  # 199 rounds in 100 s: 201 take 101 s
    shown.close()
    assert "about 2 min left" in capsys.readouterr().out
