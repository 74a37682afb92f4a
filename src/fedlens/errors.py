"""Every error that FedLens raises on purpose.

    FedLensError
    ├── ConfigError             a key, a value or a combination that cannot work
    ├── DataError               images, labels, partitions
    ├── ModelError              building a model, finding its weights
    ├── RuntimeFailure          where the clients run
    │   ├── NotEnoughClients
    │   ├── ConnectionFailed
    │   └── ProtocolError
    ├── TrainingDiverged        no client returned a finite update
    ├── PrivacyBudgetExceeded
    └── CheckpointError

A message is one or a few lines that name the key or file, the value, and the way out. The command line
prints it without a traceback (`--debug` shows one). Foreign exceptions are wrapped with `raise … from`.
"""

from __future__ import annotations


class FedLensError(Exception):
    """Base of the tree."""


class ConfigError(FedLensError):
    """One or several configuration problems, each a line of its own."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class DataError(FedLensError):
    """Images, labels or partitions cannot be used as asked."""


class ModelError(FedLensError):
    """A model cannot be built, or its weights cannot be had."""


class RuntimeFailure(FedLensError):
    """The place where clients run has failed."""


class NotEnoughClients(RuntimeFailure):
    """Fewer clients than the configuration asks for."""


class ConnectionFailed(RuntimeFailure):
    """A server or client cannot be reached."""


class ProtocolError(RuntimeFailure):
    """The other side sent something unexpected."""


class TrainingDiverged(FedLensError):
    """No client of a round returned a finite update."""


class PrivacyBudgetExceeded(FedLensError):
    """The next round would spend more privacy than the configuration allows."""


class CheckpointError(FedLensError):
    """A checkpoint cannot be written or read."""
