"""What FedLens uses of Flower that is not public is there, with the signatures and fields that it counts on."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import pytest

from fedlens.errors import ConnectionFailed
from fedlens.flower.internals import clocks, direct, fleet, grid, parts, run
from fedlens.flower.internals.fleet import HEARTBEAT_SECONDS
from fedlens.flower.internals.grid import Grid, calling, nodes_online

INTERNALS = (parts, fleet, grid, run, direct, clocks)


# -- names and signatures ----------------------------------------------------------------------------------------------


def imported() -> list[tuple[str, str]]:
    """(module, name) of everything that `internals` takes from Flower."""
    trees = [ast.parse(Path(part.__file__).read_text(encoding="utf-8")) for part in INTERNALS]
    froms = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    taken = {(node.module, alias.name) for node in froms if node.module.startswith("flwr") for alias in node.names}
    return sorted(taken)


def of_flower(name: str) -> Any:
    """What `internals` calls so."""
    return next(getattr(part, name) for part in INTERNALS if hasattr(part, name))


def test_flower_is_the_pinned_one() -> None:
    assert version("flwr").startswith("1.38.")


@pytest.mark.parametrize(("module", "name"), imported())
def test_every_name_is_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


SIGNATURES = {
    "build_fab_from_files": ["files"],
    "NodeAuthClientInterceptor": ["private_key", "public_key"],
    "RuntimeVersionClientInterceptor": ["component_name"],
    "RuntimeVersionHttpInterceptor": ["component_name"],
    "SuperExecAuthHttpInterceptor": ["master_secret", "protected_methods"],
    "make_pull_object_fn_protobuf": ["pull_object_protobuf", "node", "run_id"],
    "make_push_object_fn_protobuf": ["push_object_protobuf", "node", "run_id", "session_id"],
    "inflate_object_from_contents": ["object_id", "object_contents"],
    "pull_objects": ["object_ids", "pull_object_fn", "initial_backoff", "backoff_cap"],
    "push_object_contents_from_iterable": ["object_contents", "push_object_fn"],
    "make_message": ["metadata", "content", "error"],
    "remove_content_from_message": ["message"],
    "Fab": ["hash_str", "content", "verifications"],
    "HttpGrid": ["runtime_api_address", "insecure", "root_certificates", "token"],
}


@pytest.mark.parametrize(("name", "wanted"), SIGNATURES.items(), ids=list(SIGNATURES))
def test_signatures(name: str, wanted: list[str]) -> None:
    found = list(inspect.signature(of_flower(name)).parameters)
    assert [parameter for parameter in found if parameter in wanted] == wanted


@pytest.mark.parametrize("client", [direct.DirectControlClient, direct.DirectRuntimeClient])
def test_http_clients_are_made_of_an_address(client) -> None:
    found = list(inspect.signature(client.from_server_address).parameters)
    assert found[:4] == ["server_address", "insecure", "root_certificates", "interceptors"]


@pytest.mark.parametrize(
    ("client", "calls"),
    [
        (direct.DirectControlClient, ["RegisterNode", "UnregisterNode", "StartRun"]),
        (
            direct.DirectRuntimeClient,
            ["PullPendingTasks", "ClaimTask", "PullTaskInput", "PushTaskOutput", "SendTaskHeartbeat", "PullObject"],
        ),
    ],
)
def test_http_calls(client, calls: list[str]) -> None:
    assert all(callable(getattr(client, name)) for name in calls)


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


def test_grpc_calls() -> None:
    channel = grpc.insecure_channel("127.0.0.1:1")
    stub = fleet.FleetStub(channel)
    used = re.findall(r"_stub\.(\w+)", Path(fleet.__file__).read_text(encoding="utf-8"))
    assert {"RegisterNode", "ActivateNode", "PullMessages", "PushObject", "SendNodeHeartbeat"} <= set(used)
    assert all(hasattr(stub, name) for name in used)
    channel.close()


FIELDS = {
    "ActivateNodeRequest": {"public_key", "heartbeat_interval"},
    "ClaimTaskRequest": {"task_id"},
    "ConfirmMessageReceivedRequest": {"node", "run_id", "message_object_id"},
    "DeactivateNodeRequest": {"node_id"},
    "GetRunRequest": {"node", "run_id"},
    "MessageProto": {"metadata", "content"},
    "ObjectTree": {"object_id", "children"},
    "PullMessagesRequest": {"node"},
    "PushMessagesRequest": {"node", "messages_list", "message_object_trees", "clientapp_runtime_list"},
    "PushTaskOutputRequest": {"sub_status", "details"},
    "RegisterNodeFleetRequest": {"public_key"},
    "RegisterNodeRequest": {"public_key", "name"},
    "SendNodeHeartbeatRequest": {"node", "heartbeat_interval"},
    "StartRunRequest": {"fab"},
    "UnregisterNodeFleetRequest": {"node_id"},
    "UnregisterNodeRequest": {"node_id"},
}


@pytest.mark.parametrize(("name", "wanted"), FIELDS.items(), ids=list(FIELDS))
def test_requests_have_the_fields(name: str, wanted: set[str]) -> None:
    assert wanted <= set(of_flower(name).DESCRIPTOR.fields_by_name)


def test_claims_are_protected_under_flowers_names() -> None:
    from flwr.supercore.superexec.run_superexec import _SUPEREXEC_AUTH_METHODS

    assert run._CLAIM == _SUPEREXEC_AUTH_METHODS


def test_heartbeats_are_as_short_as_flower_lets_them_be() -> None:
    from flwr.common.constant import HEARTBEAT_MIN_INTERVAL

    assert HEARTBEAT_SECONDS == HEARTBEAT_MIN_INTERVAL
