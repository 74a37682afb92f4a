"""Network access to a server without gRPC: TCP, through a proxy if gRPC would use one, and TLS."""

from __future__ import annotations

import socket
import ssl
from base64 import b64encode
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection
from typing import cast
from urllib.parse import SplitResult, unquote

from fedlens.flower.proxy import proxy_for

CONNECT_SECONDS = 5.0
"""Seconds without a response that are taken as a sign of a firewall. A connection around the world takes half a
second."""


@dataclass(frozen=True)
class Target:
    """A server's address. All methods that connect raise OSError."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @cached_property
    def proxy(self) -> SplitResult | None:
        """The proxy that gRPC uses."""
        return proxy_for(self.host)

    def connect(self) -> socket.socket:
        """A connection to the port."""
        if self.proxy is not None:
            return _tunnel(self.proxy, self.host, self.port)
        try:
            return socket.create_connection((self.host, self.port), CONNECT_SECONDS, all_errors=True)
        except ExceptionGroup as each:  # one error for each address of the host
            raise min(cast("tuple[OSError, ...]", each.exceptions), key=_telling) from each

    def certificate(self, context: ssl.SSLContext) -> bytes:
        """The server's certificate (DER) from a TLS handshake.

        Raises:
            ssl.SSLCertVerificationError: `context` does not trust it.
        """
        with self.connect() as plain, context.wrap_socket(plain, server_hostname=self.host) as secure:
            return secure.getpeercert(binary_form=True) or b""


def trusting(authority: bytes) -> ssl.SSLContext:
    """A context that trusts only certificates signed by this authority (PEM)."""
    context = ssl.create_default_context(cadata=authority.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    return context


def curious() -> ssl.SSLContext:
    """A context that accepts any certificate, in order to inspect it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def _tunnel(proxy: SplitResult, host: str, port: int) -> socket.socket:
    headers = {}
    if proxy.username:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    connection = HTTPConnection(proxy.hostname or "", proxy.port or 80, timeout=CONNECT_SECONDS)
    connection.set_tunnel(host, port, headers)
    connection.connect()
    return connection.sock


def _telling(error: OSError) -> int:
    """Rank of an error: a refusal by the host is more informative than a time-out, and that more than a missing route
    (to its IPv6 address, say)."""
    return 0 if isinstance(error, ConnectionRefusedError) else 1 if isinstance(error, TimeoutError) else 2
