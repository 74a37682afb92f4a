"""Clocks of a site and its server that differ: both directions are told, with the seconds."""

from __future__ import annotations

import socket
import time
from concurrent import futures
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from flwr.proto.fleet_pb2_grpc import FleetStub, add_FleetServicer_to_server
from flwr.server.superlink.fleet.grpc_rere import node_auth_server_interceptor as interceptor

from fedlens.flower.internals import clocks
from fedlens.flower.internals.fleet import FleetLink, WrongClock

SIGNING = "flwr.client.grpc_rere_client.node_auth_client_interceptor.now"


@pytest.fixture
def superlink(monkeypatch):
    """Flower's own authentication, with FedLens' addition; gives the address."""
    monkeypatch.setattr(interceptor, "_unary_unary_rpc_terminator", interceptor._unary_unary_rpc_terminator)
    clocks.tell_the_time()
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, interceptors=[interceptor.NodeAuthServerInterceptor(lambda: None)])
        add_FleetServicer_to_server(object.__new__(type("Nobody", (), dict.fromkeys(names()))), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def names() -> list[str]:
    """The calls of a fleet."""
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        return list(vars(FleetStub(channel)))


@pytest.mark.parametrize("seconds", [60, -400])
def test_a_refusal_brings_the_servers_time(superlink, monkeypatch, seconds: int) -> None:
    """Only the signature's time is off, so that the two clocks that are compared are the same one."""
    monkeypatch.setattr(SIGNING, lambda: datetime.now(UTC) + timedelta(seconds=seconds))
    link = FleetLink(superlink, None, None)
    with pytest.raises(WrongClock, match=r"^this machine's clock is \d s ahead of the server's"):
        link.join()
    link.close(leave=False)


@pytest.mark.parametrize(
    ("seconds", "line"),
    [(60, "60 s ahead of"), (-400, "400 s behind"), (-86_400, "86,400 s behind")],
)
def test_both_directions_are_told_with_the_seconds(seconds: int, line: str) -> None:
    server = datetime.now(UTC) - timedelta(seconds=seconds)
    told = clocks.difference(f"{clocks.REFUSAL}; it is {server.isoformat()}")
    assert told == f"this machine's clock is {line} the server's (the server takes 5 s ahead and 305 s behind); set it"


@pytest.mark.parametrize("more", ["", "; it is late", "; it is 2026-01-01T00:00"])
def test_a_server_that_does_not_tell_the_time(more: str) -> None:
    told = clocks.difference(clocks.REFUSAL + more)
    assert told.startswith("this machine's clock is too far ahead of the server's, or behind it")


def test_a_clock_that_is_set_back_while_a_client_runs(monkeypatch) -> None:
    """gRPC's deadline is the clock's time and 30 s, and lies in the past then: no try would ever succeed."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = FleetLink(f"127.0.0.1:{silent.getsockname()[1]}", None, None)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 200)
        with pytest.raises(WrongClock, match="was set back by 200 s since the start of this program; start"):
            link.join()
        link.close(leave=False)
