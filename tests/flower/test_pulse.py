"""A client's sign of life."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from tests.flower.fakes import TinySite

from fedlens.errors import ConnectionFailed
from fedlens.flower import client, worker
from fedlens.flower.client import Place, ResidentClient, Terms
from fedlens.flower.internals.fleet import FleetLink
from fedlens.flower.pulse import BEAT_SECONDS, Pulse, silence


def test_a_beat_is_written_and_goes_with_the_client(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path)
    assert silence(tmp_path) is None
    pulse.beat()
    assert silence(tmp_path) == pytest.approx(0, abs=5)
    pulse.stop()
    pulse.stop()
    assert silence(tmp_path) is None


def test_beats_are_written_every_few_seconds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: moment)
    pulse = Pulse(tmp_path)
    pulse.beat()
    os.utime(tmp_path / "pulse", (1, 1))
    moment += BEAT_SECONDS / 2
    pulse.beat()
    assert (tmp_path / "pulse").stat().st_mtime == 1
    moment += BEAT_SECONDS / 2
    pulse.beat()
    assert (tmp_path / "pulse").stat().st_mtime > 1


def test_a_folder_that_cannot_be_written_ends_no_client(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path / "missing")
    pulse.beat()
    pulse.stop()


def test_every_call_to_the_server_is_a_beat() -> None:
    beats: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        link = FleetLink(f"127.0.0.1:{taken.getsockname()[1]}", None, None, lambda: beats.append("beat"))
        with pytest.raises(ConnectionFailed):
            link.join()
        link.close(leave=False)
    assert beats == ["beat"]


class Quiet:
    def note(self, text: str) -> None: ...

    def progress(self, label: str):
        return lambda _done, _all: None


def test_a_client_that_waits_for_its_server_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing behind when it is ended."""
    seen: list[float | None] = []

    def sleep(_seconds: float) -> None:
        seen.append(silence(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(client.time, "sleep", sleep)
    terms = Terms(limit=1, bundle="", stay=False)
    with pytest.raises(KeyboardInterrupt):
        ResidentClient(Place("127.0.0.1:9"), terms, lambda *_: TinySite(), tmp_path, Quiet()).run()
    assert seen == [pytest.approx(0, abs=5)]
    assert silence(tmp_path) is None


def test_a_client_whose_worker_is_busy_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker answers nothing at the first look, and something at the second."""
    looks = iter([[], ["connection"]])
    monkeypatch.setattr(worker, "wait", lambda _watched, _seconds: next(looks))
    monkeypatch.setattr(worker.wire, "receive", lambda connection: f"from {connection}")
    beats: list[str] = []
    busy = worker.Worker(lambda *_: TinySite(), Quiet(), lambda: beats.append("beat"))
    busy._connection, busy._process = "a pipe", type("Process", (), {"sentinel": 0})
    assert busy._receive() == "from a pipe"
    assert beats == ["beat"]
