"""Secrets for Kubernetes: mounted as the manifests do, they are what the command line reads."""

from __future__ import annotations

import base64
import shutil

import pytest
import yaml
from tests.commands import refused_in_one_line
from tests.problems import refuses, refuses_with
from typer.testing import CliRunner

from fedlens.cli.main import app
from fedlens.flower import kubernetes
from fedlens.flower.certificates import ClientCredentials, ServerCredentials, add, load_registry, revoke
from fedlens.flower.kubernetes import export_secrets, secret_name


def exported(*arguments):
    """What the command prints: the manifests by name, and the notes."""
    result = CliRunner().invoke(app, ["certs", "export", "--kubernetes", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return {one["metadata"]["name"]: one for one in yaml.safe_load_all(result.stdout)}, result.stderr


def mounted(secret, folder):
    """The files of a Secret as a volume with fsGroup shows them: links to files that the group may read, 0440."""
    hidden = folder / "..data"
    hidden.mkdir(parents=True)
    for key, text in secret["data"].items():
        path = folder / ("server" if key.startswith("server.") else "") / key
        path.parent.mkdir(exist_ok=True)
        (hidden / key).write_bytes(base64.b64decode(text))
        (hidden / key).chmod(0o440)
        path.symlink_to(hidden / key)
    return folder


def test_what_is_exported_is_what_server_and_clients_read(made, tmp_path):
    secrets, notes = exported(made)
    assert list(secrets) == ["fedlens-certs-server", "fedlens-certs-client1", "fedlens-certs-client2"]
    assert notes == ""
    assert {(one["apiVersion"], one["kind"], one["type"]) for one in secrets.values()} == {("v1", "Secret", "Opaque")}

    server = mounted(secrets["fedlens-certs-server"], tmp_path / "server")
    ServerCredentials.load(server)
    assert load_registry(server) == load_registry(made)
    for name in ("client1", "client2"):
        folder = mounted(secrets[f"fedlens-certs-{name}"], tmp_path / name)
        assert ClientCredentials.load(folder).fingerprint == load_registry(made).clients[name].fingerprint


def test_the_authoritys_key_stays_where_it_is(made):
    secrets, _ = exported(made)
    assert {name: set(secret["data"]) for name, secret in secrets.items()} == {
        "fedlens-certs-server": {"ca.crt", "server.crt", "server.key", "registry.json"},
        "fedlens-certs-client1": {"ca.crt", "client.key"},
        "fedlens-certs-client2": {"ca.crt", "client.key"},
    }


def test_nothing_is_written(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.parent.rglob("*")}
    exported(copy)
    assert {path: path.stat().st_mtime_ns for path in copy.parent.rglob("*")} == before


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["client2"], ["fedlens-certs-client2"]),
        (["server"], ["fedlens-certs-server"]),
        (["client2", "server", "client2"], ["fedlens-certs-client2", "fedlens-certs-server"]),
    ],
)
def test_by_name(made, names, expected):
    assert list(exported(made, *(word for name in names for word in ("--name", name)))[0]) == expected


def test_a_clients_own_folder_is_known_by_its_public_key(copy):
    """A hospital has no more than this folder, under a name of its own."""
    own = shutil.move(copy / "clients/client2", copy.parent / "from-the-server")
    assert list(exported(own)[0]) == ["fedlens-certs-client2"]
    with refuses(("unknown_name", "client1")):
        export_secrets(own, ["client1"])


def test_folders_that_went_to_their_sites_are_left_out(copy):
    shutil.rmtree(copy / "clients/client1")
    secrets, notes = exported(copy)
    assert list(secrets) == ["fedlens-certs-server", "fedlens-certs-client2"]
    assert notes == f"note: without client1: no folder in {copy}/clients\n"
    with refuses(("not_found", str(copy / "clients/client1"))):
        export_secrets(copy, ["client1"])


def test_revoked_clients_have_no_secret(copy):
    revoke(copy, "client1")
    assert list(exported(copy)[0]) == ["fedlens-certs-server", "fedlens-certs-client2"]
    with refuses_with("invalid_value", "client1: is revoked; give its site a key under a new name"):
        export_secrets(copy, ["client1"])


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ("client1", "client1"),
        ("Berlin_Mitte.2", "berlin-mitte-2"),
        ("a..b-", "a-b"),
    ],
)
def test_names_that_kubernetes_does_not_allow(client, name):
    assert secret_name(client) == f"fedlens-certs-{name}"


def test_two_clients_of_one_secret(copy):
    add(copy, ["Berlin", "berlin"])
    with refuses(("duplicate", "fedlens-certs-berlin")) as caught:
        export_secrets(copy)
    assert str(caught.value).startswith("client 'berlin' and client 'Berlin': both Secrets would be named")
    assert len(export_secrets(copy, ["Berlin"]).secrets) == 1


def test_a_client_with_the_servers_name(copy):
    add(copy, ["server"])
    with refuses(("duplicate", "server")) as caught:
        export_secrets(copy)
    assert str(caught.value).startswith("client 'server': has the name of the server's own Secret")


def test_a_key_that_is_open_to_all_or_another_ones(copy):
    key = copy / "clients/client1/client.key"
    key.chmod(0o604)
    with refuses(("insecure", str(key))):
        export_secrets(copy)
    key.chmod(0o600)
    key.write_bytes((copy / "clients/client2/client.key").read_bytes())
    with refuses_with("incompatible", f"{key}: is not the key that registry.json has for client1"):
        export_secrets(copy)
    (copy / "server/server.key").chmod(0o644)
    with refuses(("insecure", str(copy / "server/server.key"))):
        export_secrets(copy, ["server"])


def test_a_secret_has_a_largest_size(made, monkeypatch):
    monkeypatch.setattr(kubernetes, "LARGEST", 2_000)
    with refuses_with("out_of_range", "fedlens-certs-server: the files have"):
        export_secrets(made)
    assert export_secrets(made, ["client1"]).secrets, "a client's files are smaller"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["certs"], "say for which system: --kubernetes"),
        (["--kubernetes", "nowhere"], "nowhere: no such folder; give the folder that fedlens certs create made"),
        (["--kubernetes", "certs", "--name", "clinet1"], "unknown client 'clinet1'. Did you mean 'client1'?"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_printed(copy, monkeypatch, arguments, words):
    monkeypatch.chdir(copy.parent)
    result = CliRunner().invoke(app, ["certs", "export", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(words)


@pytest.mark.parametrize("file", ["ca.crt", "registry.json", "server/server.crt", "server/server.key"])
def test_a_server_without_a_file_of_its_secret(copy, monkeypatch, file):
    """It says which before it starts anything, and leaves no run behind."""
    monkeypatch.chdir(copy.parent)
    (copy / file).unlink()
    refused_in_one_line("server --certs certs --server_address 127.0.0.1:18099", f"certs/{file}: is missing")
    assert not any(copy.parent.glob("logs/*"))


@pytest.mark.parametrize("file", ["ca.crt", "client.key"])
def test_a_client_without_a_file_of_its_secret(copy, monkeypatch, file):
    monkeypatch.chdir(copy.parent)
    own = copy / "clients/client1"
    (own / file).unlink()
    words = f"client --data_dir . --partition_id 0 --server_address server:8080 --certs {own}"
    refused_in_one_line(words, f"{own}/{file}: is missing")


@pytest.mark.parametrize("ordinal", ["''", "'$(PARTITION)'", "-1", "two"])
def test_an_ordinal_that_is_none(in_an_empty_folder, ordinal):
    """Empty, or not replaced: the label of the pod's number is missing."""
    refused_in_one_line(f"client --data_dir . --partition_id={ordinal}", "partition_id = ")


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of Flower's builder
def test_volumes_that_cannot_be_written(copy, monkeypatch):
    """A file in place of the volume: root, who may run the tests, can write everywhere else."""
    monkeypatch.chdir(copy.parent)
    (copy.parent / "volume").touch()
    where = "--server_address 127.0.0.1:18099 --certs"
    refused_in_one_line(f"server {where} certs tracking.dir=volume/logs", "tracking.dir: no run folder can be made in")
    site = "client --data_dir . source=imagefolder --partition_id 0 --state_dir volume/state"
    refused_in_one_line(f"{site} {where} certs/clients/client1", "state_dir: volume/state cannot be used: ")
