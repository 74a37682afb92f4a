"""Several runs at once: real processes, with work that takes the place of training."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from fedlens.build.load import load
from fedlens.cli.sweep import Work
from fedlens.core.machine import core_numbers, cores
from fedlens.core.records import RoundRecord
from fedlens.errors import DataError
from fedlens.sweeps import pool
from fedlens.sweeps.points import Point, listed, points
from fedlens.sweeps.pool import Pool, Telling, at_once, places
from fedlens.tracking.observer import Observer

BARRIER = multiprocessing.get_context("fork").Barrier(2)


def record(number: int) -> RoundRecord:
    return RoundRecord(number, 0.1, (), (), 0.0, 0, 0, {})


class Heard:
    """What a sweep tells of its runs."""

    def __init__(self) -> None:
        self.told: list[tuple] = []
        self.failures: dict[str, str | None] = {}
        self.most = self.now = 0

    def note(self, point: Point, text: str) -> None:
        self.told.append(("note", point.label, text))

    def began(self, point: Point, done: int) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def round(self, point: Point, number: int, accuracy: float | None) -> None:
        self.told.append(("round", point.label, number))

    def working(self, point: Point, label: str, done: int, total: int) -> None: ...

    def ended(self, point: Point, folder: Path | None, failure: str | None) -> None:
        self.now -= 1
        self.failures[point.label] = failure

    def wait(self) -> None: ...


def some(count: int, *overrides: str) -> list[Point]:
    fixed = ["model.name=lenet", "runtime.device=cpu", *overrides]
    if count == 1:
        return [Point("seed=0", load(None, fixed))]
    return points(None, fixed, listed([f"seed=0:{count}"])[0], "sweep")


def after(work: Callable[[Point, Observer], None], found: list[Point], jobs: int = 2, **how: str) -> Heard:
    heard = Heard()
    Pool(work, heard, jobs, **how).run(found)
    assert not multiprocessing.active_children()
    return heard


def meet(point: Point, observer: Observer) -> None:
    observer.start({"folder": "x"}, 1, 0)
    BARRIER.wait(20)
    observer.round(record(1))


def test_runs_are_done_at_the_same_time() -> None:
    """Each waits until the other has begun."""
    heard = after(meet, some(4))
    assert heard.failures == {f"seed={seed}": None for seed in range(4)}
    assert sorted(heard.told) == [("round", f"seed={seed}", 1) for seed in range(4)]


def test_a_run_begins_in_a_new_process_too() -> None:
    """As on other systems than Linux: the point and the work are sent to it, and what it tells comes back."""
    (failure,) = after(Work({"seed=0": Path("nowhere")}), some(1), start_method="spawn").failures.values()
    assert "'nowhere' does not exist" in str(failure)


def test_one_that_fails_does_not_stop_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    def work(point: Point, observer: Observer) -> None:
        if point.label == "seed=0":
            raise DataError("no images")
        if point.label == "seed=1":
            os.kill(os.getpid(), signal.SIGKILL)
        if point.label == "seed=2":
            raise ZeroDivisionError("oh")
        observer.note("done")

    heard = after(work, some(5))
    told = [heard.failures[f"seed={seed}"] for seed in range(5)]
    assert told[0] == "no images"
    assert "killed, perhaps by the system's memory guard" in str(told[1])
    assert told[2] == "ZeroDivisionError: oh"
    assert told[3:] == [None, None]
    assert sorted(heard.told) == [("note", "seed=3", "done"), ("note", "seed=4", "done")]
    assert "ZeroDivisionError" in capfd.readouterr().err, "a fault of the program shows its traceback"


def test_the_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "core_numbers", lambda: [0, 1, 2, 3, 8])
    assert [place["cores"] for place in places(2)] == [[0, 1], [2, 3]]
    assert [place["cores"] for place in places(7)] == [[core] for core in (0, 1, 2, 3, 8, 0, 1)]
    assert [place["gpu"] for place in places(3, gpus=2)] == [0, 1, 0]
    assert [place["gpu"] for place in places(1)] == [None]
    asked = [at_once(some(9, *more)) for more in ([], ["runtime.workers=2"], ["runtime.workers=9"])]
    assert asked == [5, 2, 1]
    assert at_once(some(9, "runtime.name=ray")) == 1
    assert [at_once(some(3)), at_once([])] == [3, 0]


def test_a_run_sees_its_own_cores_alone() -> None:
    def work(point: Point, observer: Observer) -> None:
        observer.note(f"{cores()} {core_numbers()}")

    jobs = min(cores(), 2)
    heard = after(work, some(2), jobs)
    each = cores() // jobs
    assert (
        sorted(text for _, _, text in heard.told)
        == sorted(f"{each} {core_numbers()[number * each : (number + 1) * each]}" for number in range(jobs))
        if jobs > 1
        else heard.told
    )
    assert cores() == len(core_numbers()), "this process keeps its own"


def rounds(point: Point, observer: Observer) -> None:
    observer.start({"folder": "x"}, 3, 0)
    for number in (1, 2, 3):
        time.sleep(0.1)
        observer.round(record(number))


@pytest.mark.parametrize(("available", "most"), [(100, 1), (124, 1), (1000, 3)])
def test_memory_says_how_many_at_a_time(monkeypatch: pytest.MonkeyPatch, available: int, most: int) -> None:
    """Each run takes 100 bytes, and the next one needs 125 of what is free. Less than half of the memory is free, so
    the first one begins alone."""
    monkeypatch.setattr(pool, "memory_of", lambda pid: 100)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=10**6, available=available))
    assert after(rounds, some(5), jobs=3).most == most


def test_what_runs_will_still_take_is_kept_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """130 bytes are free, but a run that has begun has 60 of its 100 to come."""
    tried = Pool(meet, Heard(), 4)
    tried.largest = 100
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=10**6, available=130))
    tried.running = [SimpleNamespace(memory=100)]  # type: ignore[list-item]
    assert tried._room()
    tried.running = [SimpleNamespace(memory=40)]  # type: ignore[list-item]
    assert not tried._room()


def test_an_interruption_ends_every_run() -> None:
    def work(point: Point, observer: Observer) -> None:
        observer.start({"folder": "x"}, 1, 0)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            Path(os.environ["ENDED"], point.label).touch()
            raise

    class Impatient(Heard):
        def began(self, point: Point, done: int) -> None:
            super().began(point, done)
            if self.now == 2:
                raise KeyboardInterrupt

    def ended(folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    folder = Path(os.environ["ENDED"])
    with pytest.raises(KeyboardInterrupt):
        Pool(work, Impatient(), 2).run(some(3))
    assert ended(folder) == ["seed=0", "seed=1"], "told, not killed"
    assert not multiprocessing.active_children()


@pytest.fixture(autouse=True)
def folder_of_the_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ended").mkdir()
    monkeypatch.setenv("ENDED", str(tmp_path / "ended"))


def test_a_run_ends_when_its_sweep_is_gone() -> None:
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    observer = Telling(theirs)
    observer.note("all is well")
    assert ours.recv_bytes() == b'["note", "all is well"]'
    ours.close()
    with pytest.raises(KeyboardInterrupt):
        observer.round(record(1))


def test_no_thread_is_started_in_the_process_that_forks() -> None:
    before = threading.active_count()
    after(rounds, some(2))
    assert threading.active_count() == before
