"""Identities in a federation between hosts: the server's certificate, the sites' keys, and the register of keys.

    ca.crt, ca.key    the authority that signs the server's certificate; ca.key is only needed to renew it
    server/           server.crt and server.key, for TLS
    clients/<name>/   what travels to a site: client.key, client.pub, and a copy of ca.crt
    registry.json     the sites' public keys, and which are revoked; a running server reads it again

Sites prove who they are by Flower's SuperNode authentication: their keys are in no certificate and do not expire.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlens.core.files import read_json, write_atomic, write_json
from fedlens.core.registry import unknown
from fedlens.errors import Code, ConfigError, Problem
from fedlens.flower.key_files import (
    Certificate,
    check_folder,
    check_valid,
    read,
    read_certificate,
    read_private_key,
    write_secret,
    writing,
)
from fedlens.flower.signing import Authority, certificate_text, key_text, new_key, new_site_key, now

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY = Path("ca.crt")
AUTHORITY_KEY = Path("ca.key")
SERVER = Path("server/server.crt")
SERVER_KEY = Path("server/server.key")
CLIENTS = Path("clients")
MOST_AT_ONCE = 10_000
"""Clients that `numbered` names; a folder and a key pair are made for each."""

CLIENT_KEY = Path("client.key")
CLIENT_PUBLIC_KEY = Path("client.pub")
REGISTRY = Path("registry.json")

_MADE_BY = "give the folder that fedlens certs create made"
_ANEW = "make new ones: fedlens certs create"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Registered:
    """A site that the server knows.

    public_key   PEM, as Flower registers it
    fingerprint  as `ssh-keygen -l` prints it
    """

    public_key: bytes
    fingerprint: str
    created: datetime
    revoked: datetime | None


@dataclass(frozen=True)
class ClientRegistry:
    """All sites ever registered, by name. A name keeps its key for good; that of a revoked one is not used again."""

    clients: Mapping[str, Registered]


@dataclass(frozen=True)
class ServerCredentials:
    """The files that a server needs for TLS."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def load(cls, folder: Path) -> ServerCredentials:
        """Those in a folder made by `create`, checked.

        Raises:
            ConfigError: a file is missing, unreadable, or another's; a certificate is not valid now; the key is open to
                every user of this machine.
        """
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        check_folder(folder, f"make it: fedlens certs create --hosts NAME --clients NUMBER --out {folder}")
        found = cls(folder / AUTHORITY, folder / SERVER, folder / SERVER_KEY)
        check_valid(found.ca, _ANEW)
        check_valid(found.certificate, f"renew it: fedlens certs renew --out {folder}")
        key = read_private_key(found.key, load_pem_private_key)
        if key.public_key() != read_certificate(found.certificate).public_key():
            raise ConfigError(
                f"{found.key}: is not the key of {found.certificate}; take both from the same folder",
                code="incompatible",
                key=str(found.key),
            )
        return found


@dataclass(frozen=True)
class ClientCredentials:
    """A site's credentials: its own keys and the authority's certificate.

    root_certificates  the authority's certificate, PEM
    keys               the site's own pair
    """

    root_certificates: bytes
    keys: tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]

    @property
    def fingerprint(self) -> str:
        """Of the site's key, as the server's register has it."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return fingerprint(self.keys[1].public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())

    @classmethod
    def load(cls, folder: Path) -> ClientCredentials:
        """From a site's folder, checked.

        Raises:
            ConfigError: a file is missing or unreadable; the key is not for elliptic curves, or open to every user of
                this machine; the authority's certificate is not valid now.
        """
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key

        check_folder(folder, "give the site's own folder as it came from the server: clients/NAME")
        check_valid(folder / AUTHORITY, f"the server needs new certificates: {_ANEW}")
        key = read_private_key(folder / CLIENT_KEY, load_ssh_private_key)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(
                f"{folder / CLIENT_KEY}: is not an elliptic curve key, which is what Flower takes",
                code="wrong_type",
                key=str(folder / CLIENT_KEY),
            )
        return cls(read(folder / AUTHORITY), (key, key.public_key()))


def create(out: Path, hosts: Sequence[str], clients: Sequence[str], days: int) -> None:
    """Make a new folder with an authority, a server's certificate for `hosts`, and a key pair for each client.

    days: how long the server's certificate is valid.

    Raises:
        ConfigError: `out` holds something; bad hosts, names or days; a file cannot be written.
    """
    if (out / AUTHORITY).exists():
        raise ConfigError(
            f"{out}: has certificates already; add clients with fedlens certs add, or give another --out",
            code="exists",
            key=str(out),
        )
    _check_names(clients, ())
    authority, key = Authority.new(), new_key()
    certificate = authority.server_certificate(key.public_key(), hosts, days)
    ca = certificate_text(authority.certificate)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ConfigError(f"{out}: is not empty; give a new folder with --out", code="exists", key=str(out))
        (out / SERVER).parent.mkdir()
        write_secret(out / SERVER_KEY, key_text(key))
        write_atomic(out / SERVER, certificate_text(certificate))
        write_json(out / REGISTRY, {name: _new_client(out / CLIENTS / name, ca) for name in clients})
        write_secret(out / AUTHORITY_KEY, key_text(authority.key))
        write_atomic(out / AUTHORITY, ca)  # written last: a folder that has it is complete


def add(out: Path, names: Sequence[str]) -> None:
    """Make key pairs for further clients, and register them.

    Raises:
        ConfigError: a name is bad or taken; the folder is not one of `create`; a file cannot be written.
    """
    _check_names(names, load_registry(out).clients)
    ca = read(out / AUTHORITY)
    with writing(out):
        entries = read_json(out / REGISTRY)
        entries |= {name: _new_client(out / CLIENTS / name, ca) for name in names}
        write_json(out / REGISTRY, entries)


def renew(out: Path, hosts: Sequence[str], days: int) -> None:
    """A new certificate for the server's key, by the same authority, so that nothing changes for the clients.

    hosts: none means those of the old certificate.

    Raises:
        ConfigError: bad hosts or days; a file is missing or cannot be written; the authority's certificate has ended.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    check_folder(out, _MADE_BY)
    check_valid(out / AUTHORITY, _ANEW)
    key: Any = read_private_key(out / AUTHORITY_KEY, load_pem_private_key)
    old: Any = read_certificate(out / SERVER).public_key()
    authority = Authority(read_certificate(out / AUTHORITY), key)
    new = authority.server_certificate(old, hosts or Certificate.read(out / SERVER).hosts, days)
    with writing(out):
        write_atomic(out / SERVER, certificate_text(new))


def revoke(out: Path, name: str) -> None:
    """Mark a client as revoked; the date of one that is already stays as it is.

    Raises:
        ConfigError: there is no such client; the register cannot be read or written.
    """
    clients = load_registry(out).clients
    if name not in clients:
        raise ConfigError(unknown("client", name, clients), code="unknown_name", key=name)
    if clients[name].revoked is None:
        with writing(out):
            entries = read_json(out / REGISTRY)
            entries[name]["revoked"] = now().isoformat()
            write_json(out / REGISTRY, entries)


def load_registry(folder: Path) -> ClientRegistry:
    """The register in a folder made by `create`.

    Raises:
        ConfigError: it is missing or cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm

    check_folder(folder, _MADE_BY)
    content = read(folder / REGISTRY)
    try:
        return ClientRegistry({name: _registered(entry) for name, entry in json.loads(content).items()})
    except (ValueError, KeyError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{folder / REGISTRY}: is damaged ({error}); put back a copy of before",
            code="unreadable",
            key=str(folder / REGISTRY),
        ) from error


def numbered(count: int, taken: Collection[str] = ()) -> list[str]:
    """`count` names, client1 and on; they follow the highest number in `taken`.

    Raises:
        ConfigError: fewer than one, or more than `MOST_AT_ONCE`.
    """
    if not 1 <= count <= MOST_AT_ONCE:
        raise ConfigError(
            f"--clients {count}: give a number from 1 to {MOST_AT_ONCE:,}", code="out_of_range", key="--clients"
        )
    used = [int(found[1]) for name in taken if (found := re.fullmatch("client([0-9]+)", name))]
    first = max(used, default=0) + 1
    return [f"client{number}" for number in range(first, first + count)]


def _check_names(names: Sequence[str], taken: Collection[str]) -> None:
    if not names:
        raise ConfigError("--names: give at least one", code="missing", key="--names")
    allowed = "use up to 64 of the letters a to z, digits, '.', '_' and '-', the first a letter or digit"
    found: list[tuple[Code, str, str]] = []
    found += [("invalid_value", name, allowed) for name in names if not _NAME.fullmatch(name)]
    found += [("exists", name, "is registered already; give another name") for name in names if name in taken]
    found += [("duplicate", name, "is named twice") for name in dict.fromkeys(names) if names.count(name) > 1]
    if found:
        raise ConfigError(*(Problem(code, name, f"client {name!r}: {text}") for code, name, text in found))


def _new_client(folder: Path, ca: bytes) -> dict[str, str | None]:
    """Write a site's folder; gives its entry in the register."""
    folder.mkdir(parents=True)
    private, public = new_site_key()
    write_secret(folder / CLIENT_KEY, private)
    write_atomic(folder / CLIENT_PUBLIC_KEY, f"{public} {folder.name}\n")
    write_atomic(folder / AUTHORITY, ca)
    return {"public_key": public, "fingerprint": fingerprint(public), "created": now().isoformat(), "revoked": None}


def _registered(entry: Mapping[str, Any]) -> Registered:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

    key = load_ssh_public_key(entry["public_key"].encode())
    found = fingerprint(entry["public_key"])
    if found != entry["fingerprint"]:
        raise ValueError(f"{entry['fingerprint']} is not the fingerprint of its public key")
    return Registered(
        key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        found,
        datetime.fromisoformat(entry["created"]),
        datetime.fromisoformat(entry["revoked"]) if entry["revoked"] else None,
    )


def fingerprint(public_key: str) -> str:
    """Of a public key's line in OpenSSH's format, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(public_key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
