"""Where a server is: host:port."""

from __future__ import annotations

from fedlens.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::")


def parted(address: str, key: str) -> tuple[str, int]:
    """host:port as its two parts.

    Raises:
        ConfigError: it is none; `key` says where it was given.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536 or not host:
        raise ConfigError(f"{key} = {address!r}: must be host:port, such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def as_target(host: str) -> str:
    """The host to connect to: "every address" of a server means this machine to a client."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
