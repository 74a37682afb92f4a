"""Reads and writes the files of certificates and keys; every error is one line that names the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedlens.errors import ConfigError
from fedlens.flower.signing import now

if TYPE_CHECKING:
    from cryptography import x509

Key = TypeVar("Key")


@dataclass(frozen=True)
class Certificate:
    """The content of a certificate. `fingerprint`: SHA-256, as `openssl x509 -fingerprint -sha256` prints it."""

    begins: datetime
    ends: datetime
    hosts: tuple[str, ...]
    fingerprint: str

    @classmethod
    def read(cls, path: Path) -> Certificate:
        """The certificate in a file.

        Raises:
            ConfigError: there is none.
        """
        return cls.of(read_certificate(path))

    @classmethod
    def of(cls, found: x509.Certificate) -> Certificate:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        alternatives = [part.value for part in found.extensions if isinstance(part.value, x509.SubjectAlternativeName)]
        return cls(
            found.not_valid_before_utc,
            found.not_valid_after_utc,
            tuple(str(name.value) for names in alternatives for name in names),
            found.fingerprint(hashes.SHA256()).hex(":").upper(),
        )


def check_folder(folder: Path, way_out: str) -> None:
    """Raises ConfigError: there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; {way_out}", code="not_found", key=str(folder))


def check_valid(path: Path, way_out: str) -> None:
    """Raises ConfigError: the certificate in this file cannot be read, has ended, or has not begun."""
    certificate = Certificate.read(path)
    if certificate.ends < now():
        raise ConfigError(f"{path}: ended on {certificate.ends:%Y-%m-%d}; {way_out}", code="expired", key=str(path))
    if certificate.begins > now():
        begins, here = (f"{moment:%Y-%m-%d %H:%M} UTC" for moment in (certificate.begins, now()))
        raise ConfigError(
            f"{path}: begins on {begins}, and here it is {here}; set this machine's clock",
            code="expired",
            key=str(path),
        )


def read(path: Path) -> bytes:
    """Raises ConfigError: the file is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: is missing; take the folder as fedlens certs made it", code="not_found", key=str(path)
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", code="unreadable", key=str(path)) from error


def read_certificate(path: Path) -> x509.Certificate:
    """Raises ConfigError: the file is missing, or holds no certificate."""
    from cryptography.x509 import load_pem_x509_certificate

    try:
        return load_pem_x509_certificate(read(path))
    except ValueError as error:
        raise ConfigError(
            f"{path}: is not a certificate in PEM; take the folder as fedlens certs made it",
            code="unreadable",
            key=str(path),
        ) from error


def read_private_key(path: Path, loader: Callable[[bytes, None], Key]) -> Key:
    """The key in a file, by one of cryptography's loaders.

    Raises:
        ConfigError: the file is missing or holds no such key; every user of this machine can read or change it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm

    content = read(path)
    mode = path.stat().st_mode & 0o777
    if os.name == "posix" and mode & 0o007:
        raise ConfigError(
            f"{path}: is open to every user of this machine (mode {mode:o}); chmod 600 {path}",
            code="insecure",
            key=str(path),
        )
    try:
        return loader(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path}: is not a private key without password in the format that is expected; take the folder as fedlens "
            "certs made it",
            code="unreadable",
            key=str(path),
        ) from error


def write_secret(path: Path, content: bytes) -> None:
    """Make a new file that only its owner can read, from the moment it exists.

    Raises:
        OSError: there is one already; it cannot be written.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises ConfigError in place of an OSError."""
    try:
        yield
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename}: is there already; move it away, or choose another name",
            code="exists",
            key=str(error.filename),
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error})",
            code="unwritable",
            key=str(error.filename or folder),
        ) from error
