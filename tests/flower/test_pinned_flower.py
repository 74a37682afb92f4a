"""What FedLens uses of Flower that is not public works as it counts on, with the pinned Flower."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from tests.flower.processes import free_port, until

from fedlens.errors import ConnectionFailed
from fedlens.flower.bundle import bundle
from fedlens.flower.certificates import ClientCredentials, ServerCredentials, load_registry
from fedlens.flower.internals import direct, fleet, run
from fedlens.flower.internals.fleet import HEARTBEAT_SECONDS, FleetLink, Refused
from fedlens.flower.internals.grid import Grid, calling, nodes_online, replies
from fedlens.flower.internals.parts import message_of, taken_apart
from fedlens.flower.superlink import SuperLink

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of Flower's builder


def test_flower_is_the_pinned_one() -> None:
    assert version("flwr").startswith("1.38.")


@pytest.fixture
def superlink(made: Path, tmp_path: Path) -> Iterator[tuple[SuperLink, str]]:
    """Flower's own, with TLS and authentication, and where sites connect."""
    port = free_port()
    superlink = SuperLink("127.0.0.1", port, tmp_path / "superlink", ServerCredentials.load(made), database=False)
    yield superlink, f"127.0.0.1:{port}"
    superlink.close()


def test_a_message_and_its_reply_through_the_real_superlink(superlink, made: Path) -> None:
    """Every call that a run needs, as FedLens makes it; names, parameters and fields are checked by using them."""
    server, address = superlink
    run = server.start()
    server.admit(run, load_registry(made))
    grid = run.claim(bundle())
    own = ClientCredentials.load(made / "clients/client1")
    with pytest.raises(Refused):
        FleetLink(address, own.root_certificates, None).join()  # a stranger
    site = FleetLink(address, own.root_certificates, own.keys)
    node = site.join()
    assert {one: found.name for one, found in nodes_online(grid).items()} == {node: "client1"}
    (name,) = grid.push_messages([Message(RecordDict({"head": ConfigRecord({"round": 3})}), node, "train", ttl=60)])
    incoming = until(site.receive, "the message")
    assert site.bundle_hash(incoming.run_id) == bundle().hash_str
    asked = message_of(incoming, site.fetch(incoming, 10**6))
    site.confirm(incoming)
    site.send(taken_apart(Message(RecordDict({"head": ConfigRecord({"round": 4})}), reply_to=asked), 0.5))
    (reply,) = until(lambda: replies(grid, name), "the reply")
    assert (asked.content["head"]["round"], reply.content["head"]["round"]) == (3, 4)
    assert reply.metadata.src_node_id == node
    site.withdraw()
    assert nodes_online(grid) == {}
    run.unregister(node)
    with pytest.raises(ConnectionFailed):
        FleetLink(address, own.root_certificates, own.keys).join()
    run.finish(grid, "completed")


@pytest.mark.parametrize("client", [direct.DirectControlClient, direct.DirectRuntimeClient])
def test_http_clients_are_flowers_but_for_the_proxy(client, monkeypatch) -> None:
    flowers, own = (kind("http://127.0.0.1:1/", timeout=3.0) for kind in (client.__mro__[2], client))
    assert {**vars(own), "_client": None} == {**vars(flowers), "_client": None}
    assert own._client.timeout == flowers._client.timeout
    assert own._client.follow_redirects == flowers._client.follow_redirects
    assert (own._client.trust_env, flowers._client.trust_env) == (False, True)
    for kind in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(kind, "socks5://proxy.example.org:1080")  # httpx has no SOCKS without another package
    client("http://127.0.0.1:1").close()


def test_a_servers_own_calls_and_those_within_one_machine_use_no_proxy(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        link = fleet.FleetLink(address, None, None)
        with pytest.raises(ConnectionFailed):
            link.join()
        link.close(leave=False)
        with pytest.raises(ConnectionFailed):
            calling(Grid(address, True, None, token="a token"), nodes_online)
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has come
            proxy.accept()


def test_claims_are_protected_under_flowers_names() -> None:
    from flwr.supercore.superexec.run_superexec import _SUPEREXEC_AUTH_METHODS

    assert run._CLAIM == _SUPEREXEC_AUTH_METHODS


def test_heartbeats_are_as_short_as_flower_lets_them_be() -> None:
    from flwr.common.constant import HEARTBEAT_MIN_INTERVAL

    assert HEARTBEAT_SECONDS == HEARTBEAT_MIN_INTERVAL
