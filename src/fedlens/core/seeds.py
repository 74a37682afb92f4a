"""Seeds for everything random: derived from the run's seed and the place where they are used."""

from __future__ import annotations

import hashlib


def derive(seed: int, *place: str | int) -> int:
    """A 63-bit seed that depends on `seed` and on every part of `place`, in order.

    Any client of any round gets its own stream, whichever process it runs in and whatever ran before it.
    """
    text = "\0".join([str(seed), *map(str, place)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
