"""How far workers are, counted without a message."""

from __future__ import annotations

from fedlens.core.types import BatchProgress, Task
from fedlens.runtimes.meter import Meter, Seldom, standing

TASKS = [Task(name, 3, "train", {}) for name in ("a", "b", "c")]


def test_steps_and_clients_of_all_workers_together():
    first, second = Meter(), Meter()
    first.begin([4, 2])
    second.begin([10])
    for _ in range(4):
        first.step()
    first.clients()
    second.step()
    assert standing(TASKS, [first.cells, second.cells]) == BatchProgress(3, "", 1, 3, 5, 16)


def test_a_method_that_takes_fewer_steps_than_planned_corrects_what_is_to_come():
    meter = Meter()
    meter.begin([10, 20])
    for _ in range(5):
        meter.step()
    meter.clients()
    assert list(meter.cells) == [1, 5, 15]  # half of what was planned: 5 done, 10 of 20 to come
    for _ in range(10):
        meter.step()
    meter.clients()
    meter.begin([10])
    assert list(meter.cells) == [0, 0, 5]  # also in the next round


def test_a_client_that_failed_at_once_says_nothing_about_the_others():
    meter = Meter()
    meter.begin([10, 20])
    meter.clients()
    assert list(meter.cells) == [1, 0, 20]


def test_seldom(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr("fedlens.runtimes.meter.time.monotonic", lambda: now[0])
    seldom = Seldom(lambda: calls.append(now[0]), 1.0)
    for now[0] in (0.5, 1.0, 1.5, 2.5):
        seldom()
    assert calls == [1.0, 2.5]
