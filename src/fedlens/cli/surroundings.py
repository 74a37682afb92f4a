"""The process environment: streams, home folder, working folder. Problems are repaired, or reported in one line before
any work."""

from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
from pathlib import Path

from fedlens.errors import ConfigError, FedLensError

BELOW_HOME = {
    "XDG_CACHE_HOME": ".cache",
    "XDG_STATE_HOME": ".local/state",
    "XDG_CONFIG_HOME": ".config",
    "FLWR_HOME": ".flwr",
}
"""Folders in which libraries and FedLens write, by environment variable."""


def mend_streams() -> None:
    """Make standard output and error accept every character, with replacements where the encoding has none. A closed
    stream is redirected to the null device, so that no file opened later gets its descriptor."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper) and name != "stdin":
            stream.reconfigure(errors="replace")


def need_working_folder() -> None:
    """Raises ConfigError if the current folder has been deleted."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise ConfigError(
            "the current folder has been deleted: change to another one (cd)", code="not_found"
        ) from error


def mend_home() -> None:
    """If the user has no writable home folder, as in containers, use a private one in the folder for temporary files,
    for caches and state.

    Raises:
        ConfigError: another user owns it.
    """
    try:
        home: Path | None = Path.home()
    except RuntimeError:  # no $HOME, and no entry in the password file
        home = None
    if home is not None and os.access(home, os.W_OK):
        return
    made = private_folder()
    if home is None:
        os.environ["HOME"] = str(made)
    for variable, below in BELOW_HOME.items():
        if not os.access((home or made) / below, os.W_OK):
            os.environ.setdefault(variable, str(made / below))
    os.environ.setdefault("USER", f"user{os.getuid()}")  # libraries that need a user name check this first


def private_folder() -> Path:
    """A folder for temporary files that only this user can access.

    Raises:
        ConfigError: another user owns it, or others can access it.
    """
    made = Path(tempfile.gettempdir()) / f"fedlens-home-{os.getuid()}"
    try:
        made.mkdir(mode=0o700, exist_ok=True)
        found = made.lstat()
    except OSError as error:
        raise ConfigError(
            f"{made} cannot be made ({error.strerror}): set HOME to a folder of yours", code="unwritable", key=str(made)
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"{made} is not this user's alone: remove it, or set HOME to a folder of yours",
            code="insecure",
            key=str(made),
        )
    return made


def quiet_grpc() -> None:
    """gRPC logs errors only, unless its variable says otherwise: FedLens itself says why a connection failed. To be
    called before grpc is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def told(error: Exception) -> FedLensError | None:
    """The error line for a refusal by the operating system, and for packages that do not fit; None for other errors."""
    if isinstance(error, MemoryError) or "map segment" in str(error) or "Cannot allocate memory" in str(error):
        return FedLensError("there is too little memory, or address space (ulimit -v), to begin: allow 8 GB")
    if "operator torchvision::" in str(error):
        from importlib.metadata import version

        return FedLensError(
            f"torchvision {version('torchvision')} does not fit PyTorch {version('torch')} ({error}): install both "
            "from the same package index"
        )
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return FedLensError(f"output cannot be written ({error.strerror}): is its disk full, or its reader gone?")
    return None
