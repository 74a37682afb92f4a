"""Flower's SuperLink as a process next to the server: started, watched, and restarted when it dies."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from fedlens.errors import ConnectionFailed
from fedlens.flower.addresses import check_free, joined
from fedlens.flower.certificates import ClientRegistry, ServerCredentials
from fedlens.flower.internals.run import RunLink

_START_SECONDS = 60
_LOG_LINES = 5


class SuperLink:
    """One SuperLink, whose state lies in `folder`.

    host, port   where sites connect (gRPC)
    credentials  certificate and key; None: no TLS, no authentication
    database     keep the state on disk; otherwise in memory, so that no update is written to disk
    """

    def __init__(
        self, host: str, port: int, folder: Path, credentials: ServerCredentials | None, *, database: bool
    ) -> None:
        self._fleet = (host, port)
        self._folder = folder
        self._credentials = credentials
        self._database = database
        self._secret = secrets.token_bytes(32)
        self._control = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._nodes: dict[str, int] = {}

    @property
    def log(self) -> Path:
        return self._folder / "superlink.log"

    def start(self) -> RunLink:
        """Start the process, and wait until it listens.

        Raises:
            ConnectionFailed: the port is taken, or the SuperLink ends at once.
        """
        check_free(*self._fleet)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # its database holds updates
        self._control = _free_port()
        secret_file = self._folder / "secret"
        _write_secret(secret_file, self._secret)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedlens.flower.superlink_process", *self._arguments(secret_file)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(self._folder),
                start_new_session=True,  # the server handles Ctrl-C: it ends the run first
            )
        self._wait(secret_file)
        root = None if self._credentials is None else self._credentials.ca.read_bytes()
        self._nodes = {}
        return RunLink(f"127.0.0.1:{self._control}", root, self._secret)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def admit(self, link: RunLink, registry: ClientRegistry) -> None:
        """Admit registered sites and shut out revoked ones; may be called again when the register changes."""
        for name, site in registry.clients.items():
            if site.revoked and name in self._nodes:
                link.unregister(self._nodes.pop(name))
            elif not site.revoked and name not in self._nodes:
                self._nodes[name] = link.register(site.public_key, name)

    def close(self, *, keep_state: bool = False) -> None:
        """End the process and, unless `keep_state`, remove its stored messages, which hold sites' updates."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdin:
                self._process.stdin.close()
            self._process = None
        if keep_state:
            return
        for file in self._folder.glob("state.db*"):
            file.unlink(missing_ok=True)
        shutil.rmtree(self._folder / "flwr", ignore_errors=True)

    def _arguments(self, secret_file: Path) -> list[str]:
        host, port = self._fleet
        safe = ["--insecure"]
        if self._credentials is not None:
            paths = self._credentials
            safe = ["--ssl-ca-certfile", str(paths.ca), "--ssl-certfile", str(paths.certificate)]
            safe += ["--ssl-keyfile", str(paths.key), "--enable-supernode-auth"]
        state = ["--database", str(self._folder / "state.db")] if self._database else []
        return [
            *safe,
            *state,
            *("--isolation", "process", "--disable-runtime-dependency-installation"),
            *("--superexec-auth-secret-file", str(secret_file)),
            *("--fleet-api-address", joined(host, port)),
            *("--host", "127.0.0.1", "--port", str(self._control)),
        ]

    def _wait(self, secret_file: Path) -> None:
        until = time.monotonic() + _START_SECONDS
        host, port = self._fleet
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        waiting = [("127.0.0.1", self._control), (local, port)]
        while waiting and time.monotonic() < until and self.alive():
            waiting = [place for place in waiting if not _listens(*place)]
            time.sleep(0.05)
        secret_file.unlink(missing_ok=True)
        if waiting:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
            self.close()
            raise ConnectionFailed(f"Flower's SuperLink did not start ({self.log}):\n{tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), 0.2):
            return True
    except OSError:
        return False


def _write_secret(path: Path, secret: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)


def _environment(folder: Path) -> Mapping[str, str]:
    """No telemetry, no check for new versions, Flower's own files in the run's folder, and one heap for all threads,
    as in the server (`heap.one_heap`)."""
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(folder / "flwr")}
    return {**os.environ, **quiet, "MALLOC_ARENA_MAX": "1"}
