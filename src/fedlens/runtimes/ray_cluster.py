"""Connects to a Ray cluster, or starts one on this machine, without Ray's messages on the console."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from typing import Any

from fedlens.errors import ConfigError, ConnectionFailed, RuntimeFailure

KNOCK_SECONDS = 5
"""How long host:port may take to accept a connection."""

JOINING = {
    "RAY_NUM_REDIS_GET_RETRIES": "1",
    "RAY_py_gcs_connect_timeout_s": "4",
    "RAY_gcs_rpc_server_connect_timeout_s": "2",
    "RAY_gcs_server_request_timeout_seconds": "8",
}
"""Environment variables that Ray reads when it is imported. By default it waits minutes for a missing cluster."""


def import_ray(address: str | None) -> Any:
    """Ray's module, set to wait seconds instead of minutes for a cluster.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for name, value in JOINING.items() if address else ():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "runtime.name='ray' needs the extra: pip install 'fedlens[ray]'", code="unavailable", key="runtime.name"
        ) from error
    return ray


def connect(ray: Any, address: str | None, cpus: int | None) -> None:
    """Join the cluster at `address` ("auto" or host:port). None starts a Ray of this machine alone, with so many
    `cpus` (None: the machine's).

    Raises:
        ConnectionFailed: no cluster answers.
    """
    ending = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(
                address or "local",
                num_cpus=None if address else cpus,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:  # a ConnectionError is an OSError
        raise ConnectionFailed(_unreachable(address, error)) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ending)  # Ray's handler would end the process at once
    _speak(ray, False)


def disconnect(ray: Any) -> None:
    """Leave the cluster; one that `connect` started ends."""
    ray.shutdown()
    _speak(ray, True)


def room(ray: Any, workers: int | None, threads: int, gpu: bool, clients: int) -> int:
    """How many actors: `workers`, or as many as the whole cluster has room for; never more than `clients`.

    Raises:
        RuntimeFailure: the cluster is too small.
    """
    kind, each = ("GPU", 1) if gpu else ("CPU", threads)
    have = int(ray.cluster_resources().get(kind, 0))
    wanted = min(workers or max(have // each, 1), clients)
    if wanted * each > have:
        raise RuntimeFailure(
            f"{wanted} actors (runtime.workers) of {each} {kind} each do not fit into a Ray cluster with {have}: fewer "
            "workers, or more nodes"
        )
    return wanted


def brief(text: str) -> str:
    """The first sentence of the last line; the lines before are a traceback, or identifiers."""
    return text.strip(" .\n").rpartition("\n")[2].partition(". ")[0]


def _knock(address: str | None) -> None:
    """Check that host:port accepts a connection, before Ray tries for minutes."""
    if address not in (None, "auto"):
        host, _, port = str(address).rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def _speak(ray: Any, aloud: bool) -> None:
    """Whether Ray prints, when a process of the cluster dies, its own dozens of lines: it has no public switch."""
    ray._private.worker._worker_logs_enabled = aloud


def _unreachable(address: str | None, error: Exception) -> str:
    reason = brief(str(error.__cause__ or error))
    if address is None:
        return f"no Ray could be started on this machine: {reason}"
    return (
        f"runtime.address={address!r}: no Ray cluster can be joined there ({reason}). This machine has to be one of "
        "its nodes: `ray start --head` on the first, `ray start --address=HOST:PORT` on the others; for a cluster with "
        "a token, RAY_AUTH_MODE=token. Without runtime.address, a Ray of this machine alone is started"
    )
