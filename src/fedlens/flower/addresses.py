"""Where a server is: host:port."""

from __future__ import annotations

import re
import socket
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from fedlens.errors import ConfigError, ConnectionFailed

if TYPE_CHECKING:
    from fedlens.config.schema import Config

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::")

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
"""One part of a host's name (RFC 1123), with the underscores that container networks have."""


def parted(address: str, key: str) -> tuple[str, int]:
    """host:port as its two parts; an IPv6 address stands in brackets, and is given without them.

    Raises:
        ConfigError: it is none; `key` says where it was given.
    """
    try:
        return _parted(address.strip())
    except ValueError as error:
        raise ConfigError(f"{key} = {address!r}: {error}", code="invalid_value", key=key) from error


def as_target(host: str) -> str:
    """The host to connect to: "every address" of a server means this machine to a client."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def joined(host: str, port: int) -> str:
    """The inverse of `parted`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parted(address: str) -> tuple[str, int]:
    if found := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", address):
        rest = address[found.end() :].rstrip("/")
        raise ValueError(f"must be host:port without {found[0]}, such as {_example(rest)}")
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal()):
        raise ValueError("must be host:port, such as 127.0.0.1:8080")
    if not 0 < int(port[:6]) < 65536 or len(port) > 5:
        raise ValueError(f"port {port[:20]} is not between 1 and 65535")
    return _host(host, port), int(port)


def _example(rest: str) -> str:
    """`rest` where it is an address, else one that is."""
    try:
        return joined(*_parted(rest))
    except ValueError:
        return "server.example.org:8080"


def _host(host: str, port: str) -> str:
    """A name in the form that resolvers take, or an address.

    Raises:
        ValueError: it is neither.
    """
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(IPv6Address(host[1:-1]))
        except AddressValueError as error:
            raise ValueError(f"{host[1:-1]!r} is no IPv6 address ({error})") from error
    if ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets, such as [::1]:{port}")
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(IPv4Address(host))
        except AddressValueError as error:
            raise ValueError(f"{host!r} is no IPv4 address ({error})") from error
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.removesuffix(".").split(".")):
        raise ValueError(f"{host!r} is no host's name: it has letters, digits, hyphens and dots")
    return name


def bind_address(config: Config) -> tuple[str, int]:
    """Where to listen: this machine only, unless there are certificates or --insecure was said.

    Raises:
        ConfigError: the address is none, or open to others without either.
    """
    host, port = parted(config.server.address, "server.address")
    if config.server.certs is not None or config.server.insecure or host in LOOPBACK:
        return host, port
    if host in EVERY_ADDRESS:
        return "127.0.0.1", port
    raise ConfigError(
        f"server.address = {config.server.address!r}: other machines need certificates (`fedlens certs create --hosts "
        f"{host} --clients 2 --out ./certs`, then --certs ./certs), or say --insecure",
        code="insecure",
        key="server.address",
    )


def check_free(host: str, port: int) -> None:
    """Raises ConnectionFailed: another program listens on that port, or the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConnectionFailed(
                f"server.address: {joined(host, port)} cannot be used ({error.strerror}); stop what listens there, or "
                f"choose another port: --server_address {joined(host, port + 1)}"
            ) from error


def hint(config: Config) -> str:
    """The command that a site would give."""
    host, port = parted(config.server.address, "server.address")
    address = joined("127.0.0.1" if host in EVERY_ADDRESS and not config.server.certs else host, port)
    safe = " --certs ./client1" if config.server.certs else ""
    return f"fedlens client --data_dir FOLDER --partition_id 0 --server_address {address}{safe}"
