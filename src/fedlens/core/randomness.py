"""Randomness of the operating system, and key streams: for noise, masks and keys, which nobody may compute again.

What may be computed again, from the run's seed, is in `core.seeds`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlens.errors import RuntimeFailure

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

KEY_BYTES = 32

_ZEROS = bytes(1 << 21)
"""What is encrypted: as much as is asked for at a time where speed matters."""


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


def random_words(stream: CipherContext, count: int, dtype: type[np.integer[Any]]) -> NDArray[Any]:
    """The next `count` words of a key stream, each uniform among all that `dtype` has."""
    size = np.dtype(dtype).itemsize * count
    words = bytearray(size + 15)  # as much as `update_into` asks for
    stream.update_into(_ZEROS[:size] if size <= len(_ZEROS) else bytes(size), words)
    return np.frombuffer(words, dtype, count)
