"""A site's state folder: its identity, and the lock by which only one client uses it at a time."""

from __future__ import annotations

import fcntl
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fedlens.config.site import SiteConfig
from fedlens.core.files import STAGES, write_atomic
from fedlens.errors import ConfigError


def identity(state: Path) -> str:
    """The random identity that distinguishes this site from another of the same name; kept in the state folder."""
    path = state / "identity"
    if not path.exists():
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, secrets.token_hex(16))
    return path.read_text().strip()


def forget_stages(state: Path) -> None:
    """Remove what this site keeps between the stages of a round, of all runs: it has no further part in them."""
    for folder in state.glob(f"*/clients/*/{STAGES}"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def exclusive_lock(config: SiteConfig) -> Iterator[None]:
    """Lock the site's state folder, so that no second client uses it.

    Raises:
        ConfigError: one does, or the folder cannot be written.
    """
    folder = config.state
    with ExitStack() as held:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # only the owner may read what is kept here
            lock = held.enter_context((folder / "lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"partition_id={config.partition_id}: a client of that partition ({config.client}) already runs here, "
                f"in {folder}; give this one another --partition_id",
                code="in_use",
                key="partition_id",
            ) from error
        except OSError as error:
            raise ConfigError(
                f"state_dir: {folder} cannot be used: {error.strerror}; choose another --state_dir",
                code="unwritable",
                key="state_dir",
            ) from error
        yield
