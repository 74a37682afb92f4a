"""Masks: the key stream of AES-256 in counter mode as unsigned words, added modulo 2³² or 2⁶⁴."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlens.core.randomness import key_stream

Words = NDArray[np.unsignedinteger[Any]]
"""A vector of uint32 or uint64; arithmetic is modulo 2³² or 2⁶⁴."""

CHUNK_BYTES = 1 << 19
"""Bytes of key stream at a time: they stay in the processor's cache."""

_ZEROS = bytes(CHUNK_BYTES)


def add_mask(vector: Words, key: bytes, *, subtract: bool = False) -> None:
    """Add the mask of a 256-bit key to `vector`, in place, or subtract it. A key is used for one vector only."""
    encryptor = key_stream(key)
    words = CHUNK_BYTES // vector.itemsize
    stream = bytearray(CHUNK_BYTES + 15)  # as much as `update_into` asks for
    mask = np.frombuffer(stream, vector.dtype, words)
    if sys.byteorder == "big":  # masks are the same on every machine
        mask = mask.view(mask.dtype.newbyteorder("<"))
    combine = np.subtract if subtract else np.add
    for start in range(0, len(vector), words):
        part = vector[start : start + words]
        encryptor.update_into(_ZEROS[: part.nbytes], stream)
        combine(part, mask[: len(part)], out=part)
