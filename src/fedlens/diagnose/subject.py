"""The subject of the checks, with the data that they share."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedlens.config.overrides import file_layer
from fedlens.config.site import SiteConfig, load_site
from fedlens.diagnose.network import Target
from fedlens.diagnose.outcome import Outcome
from fedlens.flower.addresses import LOOPBACK, as_target, parted
from fedlens.flower.certificates import ClientCredentials


@dataclass
class Subject:
    """A site and its server. `has_data`: a data folder is configured; `serves`: this is the server's machine."""

    site: SiteConfig
    has_data: bool = False
    serves: bool = False

    @classmethod
    def load(cls, path: Path | None, overrides: list[str], *, serves: bool = False) -> Subject:
        """Read a site.yaml, overridden by `key=value` texts; a data folder is not required.

        Raises:
            ConfigError: one line for each mistake.
        """
        given = {override.partition("=")[0] for override in overrides} | set(file_layer(path).tree if path else ())
        has_data = "data_dir" in given
        site = load_site(path, overrides if has_data else [*overrides, "data_dir=."])
        return cls(site, has_data, serves)

    @cached_property
    def target(self) -> Target:
        """Raises ConfigError: the server's address is invalid."""
        host, port = parted(self.site.server_address, "server_address")
        return Target(as_target(host), port)

    @property
    def here(self) -> bool:
        """Whether the server is on this machine."""
        return self.target.host in LOOPBACK

    @cached_property
    def credentials(self) -> ClientCredentials | None:
        """Raises ConfigError: a file of the credentials is missing or invalid."""
        return ClientCredentials.load(self.site.certs) if self.site.certs else None

    @cached_property
    def met(self) -> Outcome:
        """The outcome of a visit to the server, made once, when a check first needs it."""
        from fedlens.diagnose.visit import visit

        held = self.credentials
        root, keys = (held.root_certificates, held.keys) if held else (None, None)
        return visit(str(self.target), root, keys)

    @cached_property
    def client_runs(self) -> bool:
        """Whether a client with this site's state folder runs on this machine: it holds the folder's lock."""
        try:
            with (self.site.state / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False
