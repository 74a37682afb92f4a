"""Secrets for Kubernetes: the files that `--certs FOLDER` names, for the server and for each site.

A key of a Secret has no slash in it, so `server/server.crt` is stored as `server.crt`; the manifests in deploy/ mount
it at the path that `ServerCredentials` reads.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedlens.core.registry import unknown
from fedlens.errors import ConfigError
from fedlens.flower.certificates import (
    AUTHORITY,
    CLIENT_KEY,
    CLIENT_PUBLIC_KEY,
    CLIENTS,
    REGISTRY,
    SERVER,
    SERVER_KEY,
    ClientCredentials,
    Registered,
    ServerCredentials,
    load_registry,
)
from fedlens.flower.key_files import check_folder, read

PREFIX = "fedlens-certs-"
"""Begins the name of every Secret; the client's name follows, or `SERVER_NAME`."""

SERVER_NAME = "server"
SERVER_FILES = (AUTHORITY, SERVER, SERVER_KEY, REGISTRY)
CLIENT_FILES = (AUTHORITY, CLIENT_KEY)

LARGEST = 1 << 20
"""Bytes that Kubernetes stores in a Secret at most."""


@dataclass(frozen=True)
class Secret:
    """A Secret. `owner`: who uses it, in words; `files`: content by the Secret's key."""

    owner: str
    name: str
    files: Mapping[str, bytes]

    def manifest(self) -> dict[str, Any]:
        """The object that `kubectl apply` takes."""
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.name, "labels": {"app.kubernetes.io/name": "fedlens"}},
            "type": "Opaque",
            "data": {key: base64.b64encode(content).decode() for key, content in self.files.items()},
        }


@dataclass(frozen=True)
class Exported:
    """The Secrets, and the clients that were left out because their folders are not here."""

    secrets: tuple[Secret, ...]
    left_out: tuple[str, ...] = ()


def export_secrets(folder: Path, names: Sequence[str] = ()) -> Exported:
    """The Secrets of the server and of every client that is not revoked; or of `names` alone (`server`, or a client).

    folder  one of `certificates.create`, the server's part of it, or one client's own folder

    Raises:
        ConfigError: a file is missing, damaged, another's, or a key open to every user of this machine; a name is
            unknown or revoked; two Secrets would have one name; a Secret would be too large.
    """
    check_folder(folder, "give the folder that fedlens certs create made, or a client's own folder")
    if (folder / CLIENT_KEY).exists():
        name = _own_name(folder)
        return Exported(_made({name: partial(_client, name, folder)}, names or [name]))
    clients = load_registry(folder).clients
    makers: dict[str, Callable[[], Secret]] = {
        name: partial(_registered, name, folder / CLIENTS / name, client) for name, client in clients.items()
    }
    if SERVER_NAME in clients:
        raise ConfigError(
            f"client {SERVER_NAME!r}: has the name of the server's own Secret; make new keys under another name",
            code="duplicate",
            key=SERVER_NAME,
        )
    active = [name for name, client in clients.items() if client.revoked is None]
    here = [name for name in active if (folder / CLIENTS / name).is_dir()]
    secrets = _made({SERVER_NAME: partial(_server, folder)} | makers, names or [SERVER_NAME, *here])
    return Exported(secrets, () if names else tuple(name for name in active if name not in here))


def _own_name(folder: Path) -> str:
    """A client's name stands behind its public key."""
    public = read(folder / CLIENT_PUBLIC_KEY).decode(errors="replace").split()
    return public[2] if len(public) > 2 else folder.resolve().name


def _made(makers: Mapping[str, Callable[[], Secret]], names: Sequence[str]) -> tuple[Secret, ...]:
    for name in names:
        if name not in makers:
            raise ConfigError(unknown("client", name, makers), code="unknown_name", key=name)
    found = tuple(makers[name]() for name in dict.fromkeys(names))
    _check(found)
    return found


def _server(folder: Path) -> Secret:
    ServerCredentials.load(folder)
    files = {path.name: read(folder / path) for path in SERVER_FILES}
    return Secret("the server", PREFIX + SERVER_NAME, files)


def _registered(name: str, folder: Path, client: Registered) -> Secret:
    if client.revoked is not None:
        raise ConfigError(
            f"{name}: is revoked; give its site a key under a new name: fedlens certs add",
            code="invalid_value",
            key=name,
        )
    if ClientCredentials.load(folder).fingerprint != client.fingerprint:
        raise ConfigError(
            f"{folder / CLIENT_KEY}: is not the key that {REGISTRY} has for {name}; take both from the same folder",
            code="incompatible",
            key=str(folder / CLIENT_KEY),
        )
    return _client(name, folder)


def _client(name: str, folder: Path) -> Secret:
    ClientCredentials.load(folder)
    return Secret(f"client {name!r}", secret_name(name), {path.name: read(folder / path) for path in CLIENT_FILES})


def secret_name(client: str) -> str:
    """The name of a client's Secret. Kubernetes allows small letters, digits, and hyphens between them."""
    return PREFIX + re.sub("[^a-z0-9]+", "-", client.lower()).strip("-")


def _check(secrets: Sequence[Secret]) -> None:
    owners: dict[str, str] = {}
    for secret in secrets:
        if (other := owners.setdefault(secret.name, secret.owner)) != secret.owner:
            raise ConfigError(
                f"{secret.owner} and {other}: both Secrets would be named {secret.name}; export one of them alone, or "
                "register a site under another name",
                code="duplicate",
                key=secret.name,
            )
        size = sum(map(len, secret.files.values()))
        if size > LARGEST:
            raise ConfigError(
                f"{secret.name}: the files have {size:,} bytes, and a Secret has {LARGEST:,} at most; give the server "
                "its folder in a volume",
                code="out_of_range",
                key=secret.name,
            )
