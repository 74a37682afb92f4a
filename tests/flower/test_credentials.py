"""The files of `fedlens certs` as a server and a site read them: missing, damaged, or readable by others."""

from __future__ import annotations

import json

import pytest

from fedlens.errors import ConfigError
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
        with pytest.raises(ConfigError, match=r"nowhere: no such folder; (make it|give)"):
            use()


@pytest.mark.parametrize("name", ["ca.crt", "server/server.crt", "server/server.key"])
def test_the_servers_files(name, copy):
    file = copy / name
    file.write_text("not in PEM")
    with pytest.raises(ConfigError, match=rf"{file}: is not a (certificate|private key)"):
        ServerCredentials.load(copy)
    file.unlink()
    with pytest.raises(ConfigError, match=f"{file}: is missing"):
        ServerCredentials.load(copy)
    file.mkdir()
    with pytest.raises(ConfigError, match=f"{file}: cannot be read"):
        ServerCredentials.load(copy)


@pytest.mark.parametrize("name", ["ca.crt", "client.key"])
def test_a_sites_files(name, copy):
    site = copy / "clients/client1"
    (site / name).write_text("not in PEM")
    with pytest.raises(ConfigError, match=rf"{name}: is not a (certificate|private key)"):
        ClientCredentials.load(site)
    (site / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}: is missing"):
        ClientCredentials.load(site)


def test_a_key_of_another_kind(copy):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = signing.new_key()
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (copy / "server/server.key").write_bytes(locked)
    with pytest.raises(ConfigError, match="is not a private key without password"):
        ServerCredentials.load(copy)
    (copy / "server/server.key").write_bytes(signing.key_text(key))
    with pytest.raises(ConfigError, match=r"server\.key: is not the key of .*server\.crt"):
        ServerCredentials.load(copy)
    other = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (copy / "clients/client1/client.key").write_bytes(other)
    with pytest.raises(ConfigError, match="is not an elliptic curve key"):
        ClientCredentials.load(copy / "clients/client1")


def test_a_key_that_everybody_can_read(copy):
    for file, load in (
        (copy / "server/server.key", lambda: ServerCredentials.load(copy)),
        (copy / "clients/client1/client.key", lambda: ClientCredentials.load(copy / "clients/client1")),
    ):
        file.chmod(0o644)
        with pytest.raises(ConfigError, match=rf"is open to every user of this machine \(mode 644\); chmod 600 {file}"):
            load()
        file.chmod(0o640)  # a group that the service runs in
        load()


def test_an_unknown_client(made):
    with pytest.raises(ConfigError, match=r"unknown client 'clinet1'\. Did you mean 'client1'\? Known: "):
        revoke(made, "clinet1")


def damaged(**changes):
    def change(entries):
        entries["client1"] |= changes

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damaged(public_key="ssh-rsa AAAA"), "damaged"),
        (damaged(public_key=None), "damaged"),
        (damaged(fingerprint="SHA256:x"), "SHA256:x is not the fingerprint of its public key"),
        (damaged(created="yesterday"), "yesterday"),
        (lambda entries: entries["client1"].pop("revoked"), "'revoked'"),
        (lambda entries: entries.update(client3=None), "damaged"),
    ],
)
def test_a_damaged_registry(change, words, copy):
    entries = json.loads((copy / "registry.json").read_text())
    change(entries)
    (copy / "registry.json").write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match=r"registry\.json: is damaged \(.*\); put back a copy") as caught:
        load_registry(copy)
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\xfa"])
def test_a_registry_that_is_no_json_object(content, copy):
    (copy / "registry.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"registry\.json: is damaged"):
        load_registry(copy)
    (copy / "registry.json").unlink()
    with pytest.raises(ConfigError, match=r"registry\.json: is missing"):
        load_registry(copy)
