"""The question of container and service managers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.commands import CONFIGURATION, OTHER, command, refused_in_one_line
from tests.flower.processes import free_port

from fedlens.flower.pulse import LIMIT_SECONDS, Pulse


def client_at(folder: Path, seconds_ago: float = 0) -> Path:
    """A state folder whose client has beaten so long ago."""
    folder.mkdir(parents=True)
    Pulse(folder).beat()
    moment = time.time() - seconds_ago
    os.utime(folder / "pulse", (moment, moment))
    return folder


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_server_is_alive_while_its_port_accepts(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"{host}:{listening.getsockname()[1]}"
        assert command(f"health server --address {address}").exit_code == 0
    refused_in_one_line(f"health server --address {address}", address, "Connection refused", status=OTHER)


def test_the_address_of_a_server_is_read_as_everywhere() -> None:
    refused_in_one_line("health server --address 8080", "--address = '8080'", "must be host:port")


def test_a_client_is_alive_while_it_beats(tmp_path: Path) -> None:
    state = client_at(tmp_path / "state", LIMIT_SECONDS - 10)
    result = command(f"health client --state_dir {state}")
    assert result.exit_code == 0, result.output
    assert "was alive 140 s ago" in result.stdout


@pytest.mark.parametrize("option", ["--state_dir", "--state-dir"])
def test_a_client_that_hangs(tmp_path: Path, option: str) -> None:
    state = client_at(tmp_path / "state", LIMIT_SECONDS + 10)
    refused_in_one_line(f"health client {option} {state}", str(state), "alive 160 s ago", status=OTHER)


def test_no_client(tmp_path: Path) -> None:
    refused_in_one_line(f"health client --state_dir {tmp_path}", str(tmp_path), "no client runs", status=OTHER)


def test_the_only_client_needs_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    refused_in_one_line("health client", str(tmp_path / "fedlens"), "--state_dir", status=OTHER)
    client_at(tmp_path / "fedlens" / "client1")
    assert command("health client").exit_code == 0
    client_at(tmp_path / "fedlens" / "client2")
    refused_in_one_line("health client", "client1, client2", "--state_dir", status=CONFIGURATION)


@pytest.mark.parametrize("question", ["server", "client"])
def test_asking_imports_nothing_heavy(question: str, tmp_path: Path) -> None:
    """It is asked every few seconds in every container."""
    code = (
        "import sys\n"
        "from fedlens.cli.main import main\n"
        "try:\n    main('health')\n"
        "except SystemExit as end:\n    assert end.code == 1, end.code\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'rich', 'grpc', 'flwr', 'cryptography'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    options = {"server": f"--address=127.0.0.1:{free_port()}", "client": f"--state_dir={tmp_path}"}
    words = [sys.executable, "-c", code, question, options[question]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
