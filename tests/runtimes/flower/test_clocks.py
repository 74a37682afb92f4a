"""Clocks of a site and its server that differ: both directions are told, with the seconds."""

from __future__ import annotations

import socket
import time
from concurrent import futures
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.fleet_pb2_grpc import FleetStub, add_FleetServicer_to_server
from flwr.server.superlink.fleet.grpc_rere import node_auth_server_interceptor as interceptor

from fedlens.runtimes.flower.internals import clocks
from fedlens.runtimes.flower.internals.fleet import FleetLink, WrongClock

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


@pytest.mark.parametrize(
    ("seconds", "line"), [(60, "60 s ahead of"), (-400, "400 s behind"), (-86_400, "86,400 s behind")]
)
def test_both_directions_are_told_with_the_seconds(superlink, monkeypatch, seconds: int, line: str) -> None:
    off = timedelta(seconds=seconds)
    monkeypatch.setattr(SIGNING, lambda: datetime.now(UTC) + off)

    class Off(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) + off

    link = FleetLink(superlink, None, None)
    real, superlinks = clocks.datetime, clocks.datetime
    monkeypatch.setattr(clocks, "datetime", superlinks)
    with pytest.raises(WrongClock) as raised:
        try:
            link._call(link._stub.ActivateNode, ActivateNodeRequest())
        finally:
            link.close(leave=False)
    # here both clocks are the same one: the site's is off only where it signs, so the words are read with it
    assert "the server takes 5 s ahead and 305 s behind" in str(raised.value)
    monkeypatch.setattr(clocks, "datetime", Off)
    told = f"{clocks.REFUSAL}; it is {real.now(UTC).isoformat()}"
    assert f"this machine's clock is {line} the server's" in clocks.difference(told)


@pytest.mark.parametrize(
    "told", ["Invalid timestamp", "Invalid timestamp; it is late", "Invalid timestamp; it is 2026-01-01T00:00"]
)
def test_a_server_that_does_not_tell_the_time(told: str) -> None:
    assert clocks.difference(told).startswith("this machine's clock is too far ahead of the server's, or behind it")


def test_a_clock_that_is_set_back_while_a_client_runs(monkeypatch) -> None:
    """gRPC's deadline is the clock's time and 30 s, and lies in the past then: no try would ever succeed."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = FleetLink(f"127.0.0.1:{silent.getsockname()[1]}", None, None)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 200)
        with pytest.raises(
            WrongClock, match="clock was set back by 200 s since the start of this program; start it again"
        ):
            link.join()
        link.close(leave=False)
