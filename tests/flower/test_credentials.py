"""The files of `fedlens certs` as a server and a site read them: missing, damaged, or readable by others."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest
from tests.problems import refuses, refuses_with

from fedlens.flower import signing
from fedlens.flower.certificates import (
    ClientCredentials,
    ServerCredentials,
    add,
    load_registry,
    renew,
    revoke,
)


def test_missing_folders(tmp_path):
    nowhere = tmp_path / "nowhere"
    for use in (
        lambda: ServerCredentials.load(nowhere),
        lambda: ClientCredentials.load(nowhere),
        lambda: load_registry(nowhere),
        lambda: add(nowhere, ["berlin"]),
        lambda: revoke(nowhere, "client1"),
        lambda: renew(nowhere, (), 10),
    ):
        with refuses(("not_found", str(nowhere))) as caught:
            use()
        assert re.search("nowhere: no such folder; (make it|give)", str(caught.value))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ca.crt", "certificate"),
        ("server/server.crt", "certificate"),
        ("server/server.key", "private key"),
        ("clients/client1/ca.crt", "certificate"),
        ("clients/client1/client.key", "private key"),
    ],
)
def test_a_file_that_is_damaged_or_gone(name, what, copy):
    file = copy / name
    load = partial(ClientCredentials.load, file.parent) if "client1" in name else partial(ServerCredentials.load, copy)
    file.write_text("not in PEM")
    with refuses_with("unreadable", f"{file}: is not a {what}"):
        load()
    file.unlink()
    with refuses_with("not_found", f"{file}: is missing; take the folder as fedlens certs made it"):
        load()
    file.mkdir()
    with refuses_with("unreadable", f"{file}: cannot be read"):
        load()


def test_a_key_of_another_kind(copy):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key, own, site = signing.new_key(), copy / "server/server.key", copy / "clients/client1"
    own.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with refuses_with("unreadable", f"{own}: is not a private key without password"):
        ServerCredentials.load(copy)
    own.write_bytes(signing.key_text(key))
    with refuses_with("incompatible", f"{own}: is not the key of {copy / 'server/server.crt'}"):
        ServerCredentials.load(copy)
    other = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (site / "client.key").write_bytes(other)
    with refuses_with("wrong_type", f"{site / 'client.key'}: is not an elliptic curve key"):
        ClientCredentials.load(site)


def test_a_key_that_everybody_can_read(copy):
    for file, load in (
        (copy / "server/server.key", lambda: ServerCredentials.load(copy)),
        (copy / "clients/client1/client.key", lambda: ClientCredentials.load(copy / "clients/client1")),
    ):
        file.chmod(0o644)
        with refuses_with("insecure", f"{file}: is open to every user of this machine (mode 644); chmod 600 {file}"):
            load()
        file.chmod(0o640)  # a group that the service runs in
        load()


def test_an_unknown_client(made):
    with refuses(("unknown_name", "clinet1")) as caught:
        revoke(made, "clinet1")
    assert str(caught.value).startswith("unknown client 'clinet1'. Did you mean 'client1'? Known: ")


def damaged(**changes):
    def change(entries):
        entries["client1"] |= changes

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damaged(public_key="ssh-rsa AAAA"), ""),
        (damaged(public_key=None), ""),
        (damaged(fingerprint="SHA256:x"), "SHA256:x is not the fingerprint of its public key"),
        (damaged(created="yesterday"), "yesterday"),
        (lambda entries: entries["client1"].pop("revoked"), "'revoked'"),
        (lambda entries: entries.update(client3=None), ""),
    ],
)
def test_a_damaged_registry(change, words, copy):
    entries = json.loads((copy / "registry.json").read_text())
    change(entries)
    (copy / "registry.json").write_text(json.dumps(entries))
    with refuses(("unreadable", str(copy / "registry.json"))) as caught:
        load_registry(copy)
    assert re.search(rf"registry\.json: is damaged \(.*{words}.*\); put back a copy", str(caught.value))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\xfa"])
def test_a_registry_that_is_no_json_object(content, copy):
    (copy / "registry.json").write_bytes(content)
    with refuses(("unreadable", str(copy / "registry.json"))):
        load_registry(copy)
    (copy / "registry.json").unlink()
    with refuses(("not_found", str(copy / "registry.json"))):
        load_registry(copy)
