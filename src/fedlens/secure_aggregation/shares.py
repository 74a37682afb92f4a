"""Secrets in shares: Shamir 1979, https://doi.org/10.1145/359168.359176, by PyCryptodome, over GF(2¹²⁸). A 256-bit
secret is shared in two halves, each with a polynomial of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedlens.core.randomness import KEY_BYTES, random_bytes
from fedlens.errors import ProtocolError

HALF = 16
NONCE_BYTES, TAG_BYTES = 12, 16
SEALED_BYTES = NONCE_BYTES + 2 * KEY_BYTES + TAG_BYTES
"""Bytes of an encrypted pair of shares."""


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """`count` shares of 32 bytes; any `threshold` of them give the secret, fewer say nothing of it. The share at place
    i has the index i + 1."""
    halves = (Shamir.split(threshold, count, secret[at : at + HALF], ssss=False) for at in (0, HALF))
    first, second = (dict(half) for half in halves)
    return [first[index] + second[index] for index in range(1, count + 1)]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret from `threshold` of the shares, by index.

    Raises:
        ProtocolError: there are too few.
    """
    if len(shares) < threshold:
        raise ProtocolError(f"{len(shares)} shares of a secret, of which {threshold} are needed")
    used = sorted(shares.items())[:threshold]
    halves = ([(index, share[at : at + HALF]) for index, share in used] for at in (0, HALF))
    return b"".join(Shamir.combine(half, ssss=False) for half in halves)


def combine_right(shares: Mapping[int, bytes], threshold: int, right: Callable[[bytes], bool]) -> tuple[bytes, int]:
    """The secret that is `right`, and the index of the one wrong share; 0 where none of those used is wrong.

    Where the first `threshold` shares give a wrong secret, and the right one with one of them left out, that one is
    wrong: all the others were needed for the right secret.

    Raises:
        ProtocolError: there are too few shares; or more are wrong, or the secret itself.
    """
    spare = len(shares) > threshold
    for without in (0, *(sorted(shares)[:threshold] if spare else ())):
        secret = combine({index: share for index, share in shares.items() if index != without}, threshold)
        if right(secret):
            return secret, without
    raise ProtocolError(f"of its {len(shares)} shares more are wrong than can be left out")


def seal(key: bytes, content: bytes, label: bytes) -> bytes:
    """`content` encrypted and authenticated (ChaCha20-Poly1305, RFC 8439), bound to `label`."""
    nonce = random_bytes(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, label)


def unseal(key: bytes, sealed: bytes, label: bytes) -> bytes:
    """Raises ProtocolError: it was not encrypted with this key for this label, or was changed since."""
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], label)
    except (InvalidTag, ValueError) as error:
        raise ProtocolError("shares that cannot be decrypted") from error
