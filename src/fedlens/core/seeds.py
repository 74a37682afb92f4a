"""Seeds for everything random: derived from the run's seed and the place where they are used."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

SeedFunction = Callable[..., int]
"""(seed, place…) → a 63-bit seed: `derive` or `from_system`."""


def derive(seed: int, *place: str | int) -> int:
    """A 63-bit seed that depends on `seed` and on every part of `place`, in order.

    Any client of any round gets its own stream, whichever process it runs in and whatever ran before it.
    """
    text = "\0".join([str(seed), *map(str, place)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def from_system(_seed: int, *_place: str | int) -> int:
    """A 63-bit seed from the operating system, another one at every call, with the arguments of `derive`.

    For noise and masks at a site: the server knows the run's seed, so it could compute and remove what is derived
    from that.
    """
    return secrets.randbits(63)
