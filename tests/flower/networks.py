"""Two networks of this machine, and a line between them that is slow, loses packets, and can be cut.

Both are network namespaces; the line is a thread that carries IP packets from one TUN device to the other. It needs
root, and nothing of the kernel's traffic shaping, which not every machine has.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TUN = Path("/dev/net/tun")
_SET_INTERFACE = 0x400454CA
_TUN_WITHOUT_HEADER = 0x1001
_LONGEST = 65536

POSSIBLE = os.geteuid() == 0 and _TUN.exists()


class Line:
    """delay: seconds, each way; loss: share of the packets. Use it in a `with` block."""

    SERVER, CLIENTS = "10.213.0.1", "10.213.0.2"

    def __init__(self, delay: float, loss: float, seed: int = 0) -> None:
        self._delay, self._loss, self._chance = delay, loss, random.Random(seed)
        self._names = [f"fl{os.getpid()}{side}" for side in "ab"]
        self._devices: list[int] = []
        self._broken = threading.Event()
        self._over = threading.Event()
        self._carrier = threading.Thread(target=self._carry, daemon=True)
        self.packets = self.dropped = 0

    @property
    def server_side(self) -> tuple[str, ...]:
        """What a command of the server's network begins with."""
        return ("ip", "netns", "exec", self._names[0])

    @property
    def client_side(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self._names[1])

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing gets through, and nobody is told."""
        self._broken.set()
        yield
        self._broken.clear()

    def __enter__(self) -> Line:
        for name, own, other in zip(self._names, (self.SERVER, self.CLIENTS), (self.CLIENTS, self.SERVER), strict=True):
            self._devices.append(_device(name))
            _ip("netns", "add", name)
            _ip("link", "set", name, "netns", name)
            _ip("-n", name, "address", "add", own, "peer", other, "dev", name)
            for link in ("lo", name):
                _ip("-n", name, "link", "set", link, "up")
        self._carrier.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._carrier.join()
        for device, name in zip(self._devices, self._names, strict=True):
            os.close(device)
            _ip("netns", "delete", name)

    def _carry(self) -> None:
        under_way: deque[tuple[float, int, bytes]] = deque()
        first, second = self._devices
        while not self._over.is_set():
            wait = under_way[0][0] - time.monotonic() if under_way else 0.1
            for device in select.select([first, second], [], [], max(wait, 0))[0]:
                packet = os.read(device, _LONGEST)
                self.packets += 1
                if self._broken.is_set() or self._chance.random() < self._loss:
                    self.dropped += 1
                    continue
                under_way.append((time.monotonic() + self._delay, second if device == first else first, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, device, packet = under_way.popleft()
                os.write(device, packet)


def _device(name: str) -> int:
    device = os.open(_TUN, os.O_RDWR)
    fcntl.ioctl(device, _SET_INTERFACE, struct.pack("16sH", name.encode(), _TUN_WITHOUT_HEADER))
    return device


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class _Tunnel(socketserver.StreamRequestHandler):
    """One client's way through a proxy."""

    def handle(self) -> None:
        method, target, _ = self.rfile.readline().decode().split()
        assert method == "CONNECT", method
        while self.rfile.readline().strip():
            pass
        with socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2]))) as far:
            self.connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._carry({self.connection: far, far: self.connection})

    def _carry(self, to: dict[socket.socket, socket.socket]) -> None:
        while True:
            for end in select.select(list(to), [], [])[0]:
                content = end.recv(_LONGEST)
                if not content:
                    return
                to[end].sendall(content)
                self.server.carried += len(content)  # type: ignore[attr-defined]


class Proxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy that lets everything through, on a port of this machine, and takes every name for this machine's.
    Use it in a `with` block."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.carried = 0
        """Bytes, both ways."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        super().__exit__(*error)
