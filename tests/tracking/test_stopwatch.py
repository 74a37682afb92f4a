"""Where the seconds of a call went."""

from __future__ import annotations

from fedlens.tracking.stopwatch import Stopwatch


def test_work_that_shows_its_progress_is_taken_out_of_the_part_around_it():
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    shown = []
    now[0] = 1.0
    tell = watch.timed(lambda label: lambda done, total: shown.append((label, done, total)))("computing features")
    now[0] = 6.0
    tell(1, 2)
    now[0] = 11.0
    tell(2, 2)
    now[0] = 12.0
    watch.part("rounds")
    now[0] = 20.0
    # 12 s before the rounds, 10 of them on features
    assert watch.spent() == {"features": 10.0, "start": 2.0, "rounds": 8.0}
    assert shown == [("computing features", 1, 2), ("computing features", 2, 2)]
