"""The registered keys that a site signs with and knows the other sites by, for secure aggregation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedlens.config.site import SiteConfig
from fedlens.errors import ConfigError
from fedlens.flower.certificates import ClientCredentials
from fedlens.flower.key_files import read

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    from fedlens.secure_aggregation.registered import RegisteredKeys

KEY_BITS = 384
"""Of the keys that `fedlens certs` makes."""


def registered_keys(site: SiteConfig) -> RegisteredKeys:
    """Those of the site's folder of keys, and of its `peers`.

    Raises:
        ConfigError: a file is missing or cannot be read.
    """
    from fedlens.secure_aggregation.registered import RegisteredKeys

    own = None if site.certs is None else ClientCredentials.load(site.certs).keys[0]
    return RegisteredKeys(own, None if site.peers is None else read_peers(site.peers.expanduser()))


def read_peers(path: Path) -> dict[str, EllipticCurvePublicKey]:
    """Public keys by name, from a file of lines as in `client.pub`: type, key, name.

    Raises:
        ConfigError: the file is missing, or a line is none.
    """
    found: dict[str, EllipticCurvePublicKey] = {}
    for number, line in enumerate(read(path).decode(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        words = line.split()
        key = _key(" ".join(words[:2]))
        if key is None or len(words) != 3 or words[2] in found:
            raise ConfigError(
                f"peers: {path}, line {number}: is not the public key of one more site; put the lines of all sites' "
                "client.pub there, which fedlens certs made",
                code="unreadable",
                key="peers",
            )
        found[words[2]] = key
    return found


def _key(text: str) -> EllipticCurvePublicKey | None:
    """The key in OpenSSH's format; None where `text` is no key of the register's kind."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, EllipticCurvePublicKey) and key.key_size == KEY_BITS else None
