"""Keys, and the certificates that a federation's own authority signs. Knows nothing of folders.

TLS has NIST P-256, which every TLS library takes; sites prove who they are with NIST P-384, in OpenSSH's formats, which
is what Flower 1.38 reads. Extensions are those of RFC 5280, sections 4.2.1 and 4.2.2, that strict checkers ask for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from fedlens.errors import ConfigError, Problem

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

AUTHORITY_DAYS = 3650

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Flower's control client runs beside the server and connects to these."""

_SKEW = timedelta(hours=1)
"""Certificates are valid from a little before they are made, because a site's clock may be behind."""

_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*", re.IGNORECASE)

_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its certificate, and the key to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls) -> Authority:
        """A new one, valid for `AUTHORITY_DAYS`."""
        from cryptography import x509

        key = new_key()
        extensions = [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (_usage("key_cert_sign", "crl_sign"), True),
        ]
        name = _name("FedLens federation")
        ends = now() + timedelta(days=AUTHORITY_DAYS)
        return cls(_signed(name, key.public_key(), name, key, ends, extensions), key)

    def server_certificate(
        self, public_key: CertificateIssuerPublicKeyTypes, hosts: Sequence[str], days: int
    ) -> x509.Certificate:
        """A server's certificate for `hosts` and this machine's own names; it does not outlive the authority's.

        Raises:
            ConfigError: a host is neither a name nor an address; days out of range.
        """
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        if not 1 <= days <= AUTHORITY_DAYS:
            raise ConfigError(
                f"--days {days}: a certificate is valid for 1 to {AUTHORITY_DAYS} days",
                code="out_of_range",
                key="--days",
            )
        extensions = [
            (x509.SubjectAlternativeName(_alternatives(hosts)), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage("digital_signature"), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        ]
        ends = min(now() + timedelta(days=days), self.certificate.not_valid_after_utc)
        return _signed(_name("FedLens server"), public_key, self.certificate.subject, self.key, ends, extensions)


def now() -> datetime:
    """The time, in UTC and whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key for TLS."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def key_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A TLS key as a file (PKCS #8, PEM)."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_text(certificate: x509.Certificate) -> bytes:
    """A certificate as a file (PEM)."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def new_site_key() -> tuple[bytes, str]:
    """A new key pair for a site, in OpenSSH's formats: the private key's file, the public key's line."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*uses: str) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(**{use: use in uses for use in _USES})


def _signed(
    subject: x509.Name,
    public_key: CertificateIssuerPublicKeyTypes,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    ends: datetime,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    """`extensions`: each with whether a reader that does not know it must refuse (critical)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - _SKEW)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _alternatives(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Hosts as a certificate states them: given ones first, this machine's own after them, none twice."""
    from cryptography import x509

    problems = [problem for host in hosts if (problem := _problem(host))]
    if not hosts:
        line = "--hosts: name at least one host under which the clients reach the server"
        problems = [Problem("missing", "--hosts", line)]
    if problems:
        raise ConfigError(*problems)
    addresses = {host: _address(host) for host in (*hosts, *LOCAL)}
    return [x509.IPAddress(address) if address else x509.DNSName(host) for host, address in addresses.items()]


def _problem(host: str) -> Problem | None:
    wanted = "give a name or an address without port, such as server.example.org or 192.0.2.7"
    address = _address(host)
    if address and address.is_unspecified:
        line = f"--hosts {host}: is where a server listens, not where clients find it; {wanted}"
        return Problem("invalid_value", "--hosts", line)
    if not address and (not _HOST.fullmatch(host) or host.rpartition(".")[2].isdigit()):
        line = f"--hosts {host!r}: is neither a host's name nor an address; {wanted}"
        return Problem("invalid_value", "--hosts", line)
    return None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
