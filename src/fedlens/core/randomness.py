"""Randomness of the operating system, and key streams: for noise, masks and keys, which nobody may compute again.

What may be computed again, from the run's seed, is in `core.seeds`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fedlens.errors import RuntimeFailure

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

KEY_BYTES = 32


def random_bytes(count: int) -> bytes:
    """Random bytes from the operating system.

    Raises:
        RuntimeFailure: it has no source of randomness.
    """
    try:
        return os.urandom(count)
    except (NotImplementedError, OSError) as error:
        raise RuntimeFailure(
            f"this system has no secure source of random numbers ({error}), and noise, masks and keys need one: run on "
            "a system that has one, or use privacy.mode=none and privacy.secure_aggregation=false"
        ) from error


def key_stream(key: bytes) -> CipherContext:
    """The key stream of AES-256 in counter mode: encrypt zeros. `key`: 32 bytes, never used for another stream, so the
    counter starts at 0."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
