"""Certificates against TLS libraries, keys against Flower's own readers, and every mistake."""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import socket
import ssl
import threading
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.flower.authority import HOSTS, made_at
from tests.problems import refuses, refuses_with

from fedlens.flower.certificates import (
    ClientCredentials,
    ServerCredentials,
    add,
    create,
    load_registry,
    numbered,
    renew,
    revoke,
)
from fedlens.flower.key_files import Certificate


def handshake(folder, name, ca):
    """A TLS connection through a pair of sockets, checked as strictly as Python can."""
    credentials = ServerCredentials.load(folder)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(credentials.certificate, credentials.key)
    client = ssl.create_default_context(cafile=ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT

    def serve(end):
        try:
            with server.wrap_socket(end, server_side=True) as connection:
                connection.sendall(b"hello")
        except OSError:  # the client refused; what it says is the test's matter
            end.close()

    near, far = socket.socketpair()
    thread = threading.Thread(target=serve, args=(far,))
    thread.start()
    try:
        with near, client.wrap_socket(near, server_hostname=name) as connection:
            return connection.recv(5)
    finally:
        thread.join()


@pytest.mark.parametrize("name", [*HOSTS, "localhost", "127.0.0.1", "::1"])
def test_a_client_with_the_authority_trusts_the_server(made, name):
    assert handshake(made, name, made / "clients/client1/ca.crt") == b"hello"


@pytest.mark.parametrize("name", ["other.example.org", "192.0.2.8", "example.org"])
def test_another_name_is_refused(made, name):
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        handshake(made, name, made / "ca.crt")


def test_without_the_authority_nothing_is_trusted(made, tmp_path):
    create(tmp_path / "other", HOSTS, ["client1"], 10)
    for ca in (None, tmp_path / "other/ca.crt"):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(made, "localhost", ca)


def test_grpc_takes_the_certificates(made):
    import grpc
    from flwr.supercore.grpc import create_channel

    credentials = ServerCredentials.load(made)
    echo = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    handler = grpc.method_handlers_generic_handler("test.Echo", {"say": echo})
    server = grpc.server(futures.ThreadPoolExecutor(1), [handler])
    pair = (credentials.key.read_bytes(), credentials.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    channel = create_channel(f"127.0.0.1:{port}", False, (made / "clients/client2/ca.crt").read_bytes())
    try:
        say = channel.unary_unary("/test.Echo/say")
        assert say(b"over TLS", timeout=30, wait_for_ready=True) == b"over TLS"
    finally:
        channel.close()
        server.stop(None)


def test_flower_reads_the_keys(made):
    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supercore.primitives.asymmetric import (
        bytes_to_public_key,
        public_key_to_bytes,
        sign_message,
        uses_nist_ec_curve,
        verify_signature,
    )
    from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

    file = made / "clients/client2/client.key"
    arguments = argparse.Namespace(auth_supernode_private_key=str(file), auth_supernode_public_key=None)
    private, public = _try_setup_client_authentication(arguments)

    registered = load_registry(made).clients["client2"].public_key
    assert registered == try_load_public_key(made / "clients/client2/client.pub") == public_key_to_bytes(public)
    assert uses_nist_ec_curve(public) and public.key_size == 384
    credentials = ClientCredentials.load(file.parent)
    own, own_public = credentials.keys
    assert own_public == public
    assert credentials.root_certificates == (made / "ca.crt").read_bytes()
    assert verify_signature(bytes_to_public_key(registered), b"words", sign_message(own, b"words"))
    assert not verify_signature(bytes_to_public_key(registered), b"others", sign_message(own, b"words"))
    assert private.private_numbers() == own.private_numbers()


def test_what_is_in_the_folder(made):
    files = {str(file.relative_to(made)) for file in made.rglob("*") if file.is_file()}

    assert files == {
        *("ca.crt", "ca.key", "registry.json", "server/server.crt", "server/server.key"),
        *(f"clients/client{n}/{name}" for n in (1, 2) for name in ("client.key", "client.pub", "ca.crt")),
    }
    assert (made / "clients/client1/ca.crt").read_bytes() == (made / "ca.crt").read_bytes()
    keys = {"ca.key", "server/server.key", "clients/client1/client.key", "clients/client2/client.key"}
    assert {(made / name).stat().st_mode & 0o777 for name in keys} == {0o600}


def test_a_key_is_secret_from_its_first_moment(tmp_path, monkeypatch):
    """The mode that the file is opened with, before anything is written or changed."""
    opened = {}
    real = os.open

    def noted(path, flags, mode=0o777, **options):
        opened[Path(path).name] = (mode, bool(flags & os.O_EXCL))
        return real(path, flags, mode, **options)

    monkeypatch.setattr("os.open", noted)
    create(tmp_path / "certs", HOSTS, ["client1"], 10)
    assert opened == dict.fromkeys(("ca.key", "server.key", "client.key"), (0o600, True))


def test_the_registry_says_what_the_public_keys_are(made):
    from cryptography.hazmat.primitives import hashes, serialization

    entries = json.loads((made / "registry.json").read_text())
    line = (made / "clients/client1/client.pub").read_text()
    by_library = serialization.ssh_key_fingerprint(serialization.load_ssh_public_key(line.encode()), hashes.SHA256())

    assert list(entries) == ["client1", "client2"]
    assert line == f"{entries['client1']['public_key']} client1\n"
    assert entries["client1"]["fingerprint"] == "SHA256:" + base64.b64encode(by_library).decode().rstrip("=")
    registered = load_registry(made).clients["client1"]
    assert registered.fingerprint == entries["client1"]["fingerprint"]
    assert abs(registered.created - datetime.now(UTC)) < timedelta(hours=1)
    assert registered.revoked is None


def test_dates_and_hosts(made):
    server, authority = Certificate.read(made / "server/server.crt"), Certificate.read(made / "ca.crt")

    assert server.hosts == (*HOSTS, "localhost", "127.0.0.1", "::1")
    assert authority.hosts == ()
    assert server.ends - server.begins == timedelta(days=825, hours=1)
    assert authority.ends - authority.begins == timedelta(days=3650, hours=1)


def test_the_server_does_not_outlive_the_authority(tmp_path):
    folder = made_at(datetime.now(UTC) - timedelta(days=3000), tmp_path / "certs")
    renew(folder, (), 825)
    assert Certificate.read(folder / "server/server.crt").ends == Certificate.read(folder / "ca.crt").ends


def test_add(copy):
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file() and file.name != "registry.json"}
    add(copy, ["berlin", "client3"])

    assert {file: file.read_bytes() for file in before} == before
    clients = load_registry(copy).clients
    assert list(clients) == ["client1", "client2", "berlin", "client3"]
    assert len({client.public_key for client in clients.values()}) == 4
    for name in ("berlin", "client3"):
        credentials = ClientCredentials.load(copy / "clients" / name)
        assert credentials.root_certificates == (copy / "ca.crt").read_bytes()
        assert (copy / "clients" / name / "client.key").stat().st_mode & 0o777 == 0o600


def test_numbers_go_on_after_the_highest():
    assert numbered(2) == ["client1", "client2"]
    assert numbered(2, ["client1", "client7", "berlin", "client007x"]) == ["client8", "client9"]


def test_revoke_keeps_the_key_and_the_first_date(copy):
    key = load_registry(copy).clients["client1"].public_key
    revoke(copy, "client1")
    first = (copy / "registry.json").read_bytes()
    revoke(copy, "client1")

    clients = load_registry(copy).clients
    assert (copy / "registry.json").read_bytes() == first
    assert clients["client1"].public_key == key
    assert abs(clients["client1"].revoked - datetime.now(UTC)) < timedelta(hours=1)
    assert clients["client2"].revoked is None
    with refuses(("exists", "client1")):
        add(copy, ["client1"])


def test_renew_keeps_the_key_and_the_clients_trust(tmp_path):
    folder = made_at(datetime.now(UTC) - timedelta(days=20), tmp_path / "certs")
    others = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "server.crt"}
    with refuses(("expired", str(folder / "server/server.crt"))) as caught:
        ServerCredentials.load(folder)
    assert f"renew it: fedlens certs renew --out {folder}" in str(caught.value)

    renew(folder, (), 30)
    assert handshake(folder, "192.0.2.7", folder / "clients/client1/ca.crt") == b"hello"
    assert {file: file.read_bytes() for file in others} == others
    renew(folder, ["new.example.org"], 30)
    assert handshake(folder, "new.example.org", folder / "clients/client1/ca.crt") == b"hello"
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        handshake(folder, "192.0.2.7", folder / "ca.crt")


def test_no_certificate_counts_outside_its_dates(tmp_path):
    now = datetime.now(UTC)
    early = made_at(now + timedelta(days=2), tmp_path / "early")
    with refuses(("expired", str(early / "ca.crt"))) as caught:
        ServerCredentials.load(early)
    assert re.search(r"ca\.crt: begins on \d{4}-.* UTC, and here it is .* UTC; set this", str(caught.value))
    late = made_at(now - timedelta(days=4000), tmp_path / "late")
    site = late / "clients/client1"
    for file, use in (
        (site / "ca.crt", lambda: ClientCredentials.load(site)),
        (late / "ca.crt", lambda: renew(late, (), 10)),
    ):
        with refuses(("expired", str(file))) as caught:
            use()
        assert re.search(r"ca\.crt: ended on \d{4}-\d\d-\d\d; .*fedlens certs create", str(caught.value))


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("https://example.org", "neither a host's name nor an address"),
        ("example.org:8080", "without port"),
        ("[2001:db8::1]", "neither"),
        ("192.0.2.700", "neither"),
        ("-example.org", "neither"),
        ("a..b", "neither"),
        ("a" * 64 + ".org", "neither"),
        ("münchen.example", "neither"),
        ("example.org\n", "neither"),
        ("", "neither"),
        ("0.0.0.0", "where a server listens"),
        ("::", "where a server listens"),
    ],
)
def test_bad_hosts(host, words, tmp_path):
    with refuses(("invalid_value", "--hosts")) as caught:
        create(tmp_path / "certs", ["example.org", host], ["client1"], 10)
    assert words in str(caught.value)
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize(
    "host", ["localhost", "Server-1.example.org", "super_link", "fe80::1", "2001:db8::1", "a" * 63]
)
def test_good_hosts(host, tmp_path):
    create(tmp_path / "certs", [host], ["client1"], 10)
    assert host in Certificate.read(tmp_path / "certs/server/server.crt").hosts


@pytest.mark.parametrize(
    ("hosts", "clients", "days", "code", "key", "words"),
    [
        ([], ["client1"], 10, "missing", "--hosts", "--hosts: name at least one"),
        (HOSTS, [], 10, "missing", "--names", "--names: give at least one"),
        (HOSTS, ["../x"], 10, "invalid_value", "../x", "client '../x': use up to 64"),
        (HOSTS, ["berlin", ""], 10, "invalid_value", "", "client '': use"),
        (HOSTS, ["berlin", "berlin"], 10, "duplicate", "berlin", "client 'berlin': is named twice"),
        (HOSTS, ["client1"], 0, "out_of_range", "--days", "--days 0: a certificate is valid for 1 to 3650 days"),
        (HOSTS, ["client1"], 3651, "out_of_range", "--days", "--days 3651"),
    ],
)
def test_bad_arguments_leave_nothing(hosts, clients, days, code, key, words, tmp_path):
    with refuses((code, key)) as caught:
        create(tmp_path / "certs", hosts, clients, days)
    assert str(caught.value).startswith(words)
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("count", [0, 10_001, 10**20])
def test_absurd_numbers_of_clients(count):
    with refuses_with("out_of_range", f"--clients {count}: give a number from 1 to 10,000"):
        numbered(count)


def test_nothing_is_overwritten(copy, tmp_path):
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    with refuses_with("exists", f"{copy}: has certificates already; add clients with fedlens certs add"):
        create(copy, HOSTS, ["client1"], 10)
    (copy / "clients/left").mkdir()
    with refuses_with("exists", f"{copy / 'clients/left'}: is there already; move it away"):
        add(copy, ["left"])
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before

    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").touch()
    with refuses_with("exists", f"{tmp_path / 'other'}: is not empty; give a new folder"):
        create(tmp_path / "other", HOSTS, ["client1"], 10)
    with refuses(("exists", str(tmp_path / "other/notes.txt"))):
        create(tmp_path / "other/notes.txt", HOSTS, ["client1"], 10)


def test_what_cannot_be_written(tmp_path, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with refuses_with("unwritable", f"{tmp_path / 'certs'}: cannot be written (No space left on device)"):
        create(tmp_path / "certs", HOSTS, ["client1"], 10)
