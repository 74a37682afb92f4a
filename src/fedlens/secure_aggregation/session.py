"""One attempt at one securely aggregated round, and what its messages are bound to."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fedlens.core.randomness import random_bytes


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
