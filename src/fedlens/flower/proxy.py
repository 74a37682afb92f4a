"""The proxy of a connection: the one that gRPC takes from the environment, and none within one machine."""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY = ("no_grpc_proxy", "no_proxy")


def proxy_for(host: str) -> SplitResult | None:
    """The proxy on the way to `host`. gRPC reads these variables in this order."""
    url = next(filter(None, map(os.environ.get, _PROXIES)), None)
    without = next(filter(None, map(os.environ.get, _NO_PROXY)), "")
    if url is None or is_loopback(host) or any(_covers(entry.strip(), host) for entry in without.split(",")):
        return None
    return urlsplit(url if "//" in url else f"//{url}")


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine: a proxy would take the name for its own machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host.lower() in ("localhost", "localhost.")


def place_of(proxy: SplitResult) -> str:
    """A proxy's host and port, without the login that its address may hold."""
    return f"{proxy.hostname}:{proxy.port or 80}"


def _covers(entry: str, host: str) -> bool:
    """Whether gRPC takes an entry of no_proxy to mean `host`: the end of its name, or a network that it is in."""
    if entry and host.lower().endswith(entry.lower()):
        return True
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:  # a name
        return False
