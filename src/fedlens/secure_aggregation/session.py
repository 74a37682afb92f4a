"""One attempt at one securely aggregated round, and what its messages are bound to."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from fedlens.errors import RuntimeFailure

KEY_BYTES = 32


@dataclass(frozen=True)
class Session:
    """name  16 random bytes in hexadecimal digits, drawn by the server for this attempt alone"""

    name: str
    round: int
    attempt: int

    @classmethod
    def new(cls, round_number: int, attempt: int) -> Session:
        return cls(random_bytes(16).hex(), round_number, attempt)

    def label(self, purpose: str, *names: str) -> bytes:
        """What a key, a ciphertext or a signature is bound to: a message of another attempt, round, purpose, sender or
        receiver does not fit."""
        return json.dumps(["fedlens secure aggregation", self.name, self.round, self.attempt, purpose, *names]).encode()


def random_bytes(count: int) -> bytes:
    """Random bytes from the operating system. Never derived from the run's seed, which the server knows; sums do not
    depend on them, so a simulation repeats all the same.

    Raises:
        RuntimeFailure: the system has no source of randomness.
    """
    try:
        return secrets.token_bytes(count)
    except (NotImplementedError, OSError) as error:
        raise RuntimeFailure(
            f"this machine gives no random numbers ({error}), and secure aggregation needs them for its keys. Repair "
            "the system's random source, or use privacy.secure_aggregation=false"
        ) from error
