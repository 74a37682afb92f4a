"""What the server receives looks random, and never twice the same."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats
from tests.secure_aggregation.driven import Attempt

from fedlens.secure_aggregation.masks import CHUNK_BYTES, add_mask

KEY = bytes(range(32))


def test_a_mask_is_the_key_stream_of_aes_256() -> None:
    """Across the border of two chunks, and for a length that fills none."""
    length = CHUNK_BYTES // 4 + 5
    vector = np.ones(length, np.uint32)
    add_mask(vector, KEY)
    stream = Cipher(algorithms.AES256(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(4 * length))
    assert (vector == np.frombuffer(stream, "<u4") + 1).all()
    add_mask(vector, KEY, subtract=True)
    assert (vector == 1).all()


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_masked_coordinates_are_uniform(dtype) -> None:
    """Of vectors of zeros: 256 classes by the highest byte, χ² over many attempts. An honest run fails once in 10⁶."""
    seen = np.concatenate(list(recorded(dtype, attempts=20)))
    counts = np.bincount((seen >> np.asarray(8 * seen.itemsize - 8, seen.dtype)).astype(np.int64), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-6


def test_single_coordinates_are_uniform_over_attempts() -> None:
    """Kolmogorov and Smirnov's test of one coordinate of one client."""
    seen = [vectors[0] / 2.0**32 for vectors in recorded(np.uint32, attempts=100, length=2)]
    assert stats.kstest(seen, "uniform").pvalue > 1e-6


def test_no_mask_comes_twice() -> None:
    seen = {vector.tobytes() for vector in recorded(np.uint64, attempts=20)}
    assert len(seen) == 20 * 3


def recorded(dtype, attempts: int, length: int = 200):
    """Every masked vector that the servers of so many attempts receive from three clients that send zeros."""
    for _ in range(attempts):
        attempt = Attempt({name: np.zeros(length, dtype) for name in "abc"})
        assert not attempt.run().any()
        yield from attempt.masked.values()
