"""Signals that end a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedlens.cli import signals


@pytest.fixture(autouse=True)
def handlers_of_this_process():
    """Those of a terminal, also where the tests were started with nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in signals.ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_is_an_interrupt_and_comes_once(number: signal.Signals, status: int) -> None:
    signals.as_interrupts()
    with pytest.raises(KeyboardInterrupt) as raised:
        os.kill(os.getpid(), number)
    assert signals.status(raised.value) == status
    for again in signals.ENDING:
        os.kill(os.getpid(), again)  # what is saved now is not cut off


def test_ctrl_c_has_its_own_status() -> None:
    assert signals.status(KeyboardInterrupt()) == 130


def test_what_is_ignored_stays_ignored() -> None:
    """As nohup starts a command."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.as_interrupts()
    os.kill(os.getpid(), signal.SIGHUP)  # would raise KeyboardInterrupt
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_the_status_where_nobody_takes_the_output(number: signal.Signals, status: int) -> None:
    """A terminal that was closed: /dev/full takes nothing either."""
    program = (
        "import os, typer, fedlens.cli.main as m\n"
        "@m.app.command()\n"
        f"def ended() -> None:\n    print('left in the buffer'); os.kill(os.getpid(), {int(number)})\n"
        "m.main()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", program, "ended"]
        ended = subprocess.run(command, check=False, stdout=full, stderr=full, env=environment, timeout=60)
    assert ended.returncode == status
