"""Flower's HTTP clients without a proxy: a server's calls to its own SuperLink stay within the machine, even where the
environment sets a proxy."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import httpx
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.protobuf.client import ProtobufClient, ProtobufClientInterceptor
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.runtime import RuntimeHttpClient


class _Direct(ProtobufClient):
    """As Flower's constructor, except for `trust_env`: otherwise httpx takes proxies from the environment, and fails at
    once for unknown kinds."""

    def __init__(
        self,
        base_url: str,
        *,
        interceptors: Sequence[ProtobufClientInterceptor] = (),
        verify: ssl.SSLContext | bool | str = True,
        timeout: float = 30.0,
        retry_invoker: RetryInvoker | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._interceptors = tuple(interceptors)
        self._retry_invoker = retry_invoker
        self._client = httpx.Client(verify=verify, timeout=timeout, follow_redirects=True, trust_env=False)


class DirectControlClient(_Direct, ControlHttpClient):
    """Flower's control interface."""


class DirectRuntimeClient(_Direct, RuntimeHttpClient):
    """Flower's runtime interface."""
