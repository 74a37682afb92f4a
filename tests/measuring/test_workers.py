"""`runtime.workers=auto`, with measurements that are made up; and one with real ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import fedlens
from fedlens.build.load import load
from fedlens.config.schema import Config
from fedlens.measuring import workers
from fedlens.measuring.measurement import Measurement
from fedlens.measuring.workers import Division, at_a_time, may_have_threads, on_cores, on_gpus, with_workers
from fedlens.session.run import UserObjects
from fedlens.tracking.observer import Silent


class Notes(Silent):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


Measured = Callable[..., tuple[Config, str, list[tuple[int, int]]]]
"""Seconds of a round with so many workers and threads → what is chosen, its note, and what was measured."""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setattr(workers, "may_have_threads", lambda given: given == UserObjects())

    def choose(seconds: Mapping[tuple[int, int], float], *overrides: str) -> tuple[Config, str, list[tuple[int, int]]]:
        tried: list[tuple[int, int]] = []

        def measure(config: Config, **_: Any) -> Measurement:
            division = int(str(config.runtime.workers)), config.runtime.threads_per_worker
            tried.append(division)
            assert (config.federated.evaluate_every, config.federated.evaluate_clients_every) == (0, 0)
            found = Measurement(failure=None if division in seconds else "memory is full")
            for number in range(3 * (division in seconds)):
                found.take("round", number * seconds[division], seconds[division], 0.0, False, 0)
            return found

        monkeypatch.setattr(workers, "measure", measure)
        observer = Notes()
        config = load(None, ["model.name=lenet", "runtime.workers=auto", *overrides], use="run")
        chosen = with_workers(config, UserObjects(), observer)
        return chosen, observer.told[-1], tried

    return choose


def division(config: Config) -> tuple[Any, int]:
    return config.runtime.workers, config.runtime.threads_per_worker


def test_the_fastest_division_of_the_cores_is_taken_and_told(measured: Measured) -> None:
    chosen, note, tried = measured({(8, 1): 4, (4, 2): 2, (2, 4): 3, (1, 8): 1})
    assert division(chosen) == (4, 2)
    assert tried == [(8, 1), (4, 2), (2, 4)]  # fewer workers are not tried once fewer are slower
    assert note == (
        "runtime.workers=auto: 4 workers of 2 threads are taken; seconds of a round: 4 workers of 2 threads: 2 s; "
        "2 workers of 4 threads: 3 s; 8 workers of 1 thread: 4 s"
    )


def test_no_more_workers_than_a_round_has_clients(measured: Measured) -> None:
    chosen, note, tried = measured({}, "federated.fraction_fit=0.01", "federated.min_fit_clients=1")
    assert (division(chosen), tried) == ((1, 8), [])
    assert note == "runtime.workers=auto: 1 worker of 8 threads, the only choice for 1 client at a time here"


def test_where_nothing_can_be_measured_the_default_counts(measured: Measured) -> None:
    chosen, note, _ = measured({})
    assert division(chosen) == (None, 1)
    assert note.startswith(
        "runtime.workers=auto: the default is taken; seconds of a round: 8 workers of 1 thread: memory"
    )


def test_what_fills_the_memory_is_not_taken(measured: Measured) -> None:
    chosen, note, tried = measured({(4, 2): 2, (2, 4): 3})
    assert (division(chosen), tried) == ((4, 2), [(8, 1), (4, 2), (2, 4)])
    assert note.endswith("; 8 workers of 1 thread: memory is full")


def test_a_named_number_is_left_alone() -> None:
    config = load(None, ["model.name=lenet", "runtime.workers=3"], use="run")
    assert with_workers(config, UserObjects(), Notes()) is config


def test_on_gpus_processes_share_it() -> None:
    assert on_gpus(5, 1) == [Division(1, 1), Division(2, 1), Division(4, 1)]
    assert on_gpus(5, 2) == [Division(1, 1), Division(2, 1), Division(4, 1)]
    assert on_gpus(3, 4) == [Division(1, 1)]


def test_cores_that_clients_leave_idle_are_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 8)
    assert on_cores(5, threads=True) == [Division(5, 1), Division(4, 2), Division(2, 4), Division(1, 8)]
    assert on_cores(3, threads=True) == [Division(3, 2), Division(2, 4), Division(1, 8)]


def test_an_asynchronous_schedule_has_its_own_number_of_clients() -> None:
    asynchronous = ("schedule.name=fedbuff", "schedule.concurrency=3", "schedule.buffer_size=2")
    assert at_a_time(load(None, ["model.name=lenet", *asynchronous], use="run"), 10) == 3
    assert at_a_time(load(None, ["model.name=lenet"], use="run"), 10) == 10


def test_workers_of_a_python_program_are_copies_of_it_and_have_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more, they would begin anew: without what was given, and with the program run once more."""
    monkeypatch.setattr(workers, "cores", lambda: 8)
    config = load(None, ["model.name=lenet", "runtime.workers=auto", "federated.fraction_fit=0.3"], use="run")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "train.py", raising=False)
    assert division(with_workers(config, UserObjects(), Notes())) == (3, 1)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "bin/fedlens", raising=False)
    assert not may_have_threads(UserObjects(model=nn.Linear(1, 1)))
    assert may_have_threads(UserObjects())


def test_what_cannot_be_handed_over_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "may_inherit", lambda: False)
    config = load(None, ["model.name=lenet", "runtime.workers=auto"], use="run")
    chosen = with_workers(config, UserObjects(model=nn.Linear(1, 1)), notes := Notes())
    assert division(chosen) == (None, 1)
    assert "not measured, because what Python has given" in notes.told[-1]


@pytest.mark.slow
def test_a_real_run_keeps_what_it_has_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "may_have_threads", lambda _given: True)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", None, raising=False)  # workers shall not begin with pytest
    quick = ("model.name=lenet", "federated.num_rounds=1", "runtime.workers=auto", f"tracking.dir={tmp_path}")
    run = fedlens.run(None, *quick, show=(observer := Notes()))
    found = division(run.config)
    assert min(found) >= 1
    assert any(note.startswith(f"runtime.workers=auto: {found[0]} worker") for note in observer.told)
    more = fedlens.resume(run.folder, "federated.num_rounds=2", show=(later := Notes()))
    assert division(more.config) == found
    assert not any("auto" in note for note in later.told)
