"""Every error that FedLens raises on purpose.

    FedLensError
    ├── ConfigError             a key, a value or a combination that cannot work
    ├── DataError               images, labels, partitions
    ├── ModelError              building a model, finding its weights
    ├── RuntimeFailure          where the clients run
    │   ├── NotEnoughClients
    │   ├── ConnectionFailed
    │   ├── ProtocolError
    │   └── OutOfMemory         of a GPU, or of the machine
    ├── TrainingDiverged        no client returned a finite update
    ├── PrivacyBudgetExceeded   another release would cost more privacy than is allowed
    └── CheckpointError

A message is one or a few lines that name the key or file, the value, and the way out. The command line
prints it without a traceback (`--debug` shows one). Foreign exceptions are wrapped with `raise … from`.

A program looks at `ConfigError.problems`, not at the words: each `Problem` has a code, which says what kind of mistake
it is, and a key, which says where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

Code = Literal[
    # one value
    "unknown_key",  # there is no such key, or this block has none
    "unknown_name",  # no block, client, column, … has that name
    "missing",  # a value is needed, and none was given
    "wrong_type",  # text where a number belongs, a value where a section belongs, …
    "out_of_range",  # a number beyond its limits, a text or list that is too long
    "unknown_choice",  # none of a few fixed words
    "invalid_value",  # any other rule for a value
    "duplicate",  # a key or a name that is given twice
    "syntax",  # no YAML, or no key=value
    # several values, or a value and its surroundings
    "idle_key",  # a key that is set and has no effect
    "contradiction",  # keys that exclude each other
    "incompatible",  # a value that does not go with the data, the model or the clients
    "unavailable",  # what this machine or installation lacks
    "fixed",  # a resumed run can no longer change it
    # files, folders and runs
    "not_found",
    "unreadable",  # no permission, damaged, or not of the expected format
    "unwritable",
    "exists",  # it would be overwritten
    "in_use",  # by another process
    "plugin_failed",  # importing a user's own file raised an exception
    # connections
    "insecure",  # other machines or users could listen, read or write
    "expired",  # a certificate that is not valid now
]
"""The kind of a mistake in a configuration."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration. `str` of it is `line`.

    code  the kind of mistake
    key   the dotted configuration key; for a file its path, for an option of a command its name ("--clients")
    line  what a user reads
    """

    code: Code
    key: str
    line: str

    def __str__(self) -> str:
        return self.line


class FedLensError(Exception):
    """Base of the tree."""


class ConfigError(FedLensError):
    """One or several mistakes in a configuration, each a line of its own: `ConfigError(*problems)`, or for a single one
    `ConfigError("seed = -1: must be …", code="out_of_range", key="seed")`."""

    problems: tuple[Problem, ...]

    @overload
    def __init__(self, *problems: Problem) -> None: ...
    @overload
    def __init__(self, line: str, /, *, code: Code, key: str = "") -> None: ...
    def __init__(self, *problems: Problem | str, code: Code = "invalid_value", key: str = "") -> None:
        self.problems = tuple(Problem(code, key, one) if isinstance(one, str) else one for one in problems)
        super().__init__(*self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


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


class OutOfMemory(RuntimeFailure):
    """The memory of a GPU or of the machine is full. fact: where, in one clause; way_out: what to do."""

    def __init__(self, fact: str, way_out: str) -> None:
        super().__init__(fact, way_out)
        self.fact, self.way_out = fact, way_out

    def __str__(self) -> str:
        return f"{self.fact}: {self.way_out}"


class TrainingDiverged(FedLensError):
    """No client of a round returned a finite update."""


BUDGET_SPENT = "this client's privacy budget is spent"
"""How the reason begins for which a client fails its task when its own budget allows no further one."""


class PrivacyBudgetExceeded(FedLensError):
    """Another release would cost more privacy than the run may spend."""


class CheckpointError(FedLensError):
    """A checkpoint cannot be written or read."""
