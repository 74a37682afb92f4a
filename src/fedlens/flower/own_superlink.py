"""A `Link` to FedLens' own SuperLink: started with the server, and restarted when it dies."""

from __future__ import annotations

from pathlib import Path

from flwr.serverapp import Grid as FlowerGrid

from fedlens.errors import ConfigError, ConnectionFailed
from fedlens.flower.bundle import bundle
from fedlens.flower.certificates import load_registry
from fedlens.flower.internals.grid import Grid
from fedlens.flower.internals.run import RunLink
from fedlens.flower.superlink import SuperLink

MOST_STARTS = 5
"""Most starts: a SuperLink that dies so often has a cause that a restart does not remove."""


class OwnSuperLink:
    """Starts `superlink`, submits FedLens' bundle, claims the run and holds its grid.

    registry  the folder of `fedlens certs`, read again whenever it changes; None: no authentication
    """

    def __init__(self, superlink: SuperLink, registry: Path | None) -> None:
        self._superlink = superlink
        self._registry = registry
        self._read = 0.0
        self._starts = 0
        self._limit = Grid.limit
        self._link: RunLink | None = None
        self._grid: Grid | None = None
        self.renew()

    @property
    def grid(self) -> FlowerGrid:
        assert self._grid is not None
        return self._grid

    def lost(self) -> bool:
        return not self._superlink.alive() or (self._link is not None and self._link.lost.is_set())

    def renew(self) -> None:
        """Raises ConnectionFailed: it cannot be started, or died too often."""
        self._starts += 1
        if self._starts > MOST_STARTS:
            raise ConnectionFailed(
                f"Flower's SuperLink ended {MOST_STARTS} times; the reason stands in {self._superlink.log}. The run "
                "can go on later: `fedlens server --resume`"
            )
        self.close(keep_state=True)
        self._link = self._superlink.start()
        self._read = 0.0
        self.tend()
        self._grid = self._link.claim(bundle())
        self._grid.limit = self._limit

    def tend(self) -> None:
        """Admit the sites that were registered since the last call; shut out revoked ones."""
        if self._registry is None or self._link is None:
            return
        try:
            changed = (self._registry / "registry.json").stat().st_mtime
            if changed != self._read:
                self._superlink.admit(self._link, load_registry(self._registry))
                self._read = changed
        except (OSError, ConfigError) as error:  # being replaced just now: keep what was read last
            if not self._read:
                raise ConfigError(f"server.certs: {error}", code="unreadable", key="server.certs") from error

    def allow(self, nbytes: int) -> None:
        self._limit = nbytes
        if self._grid is not None:
            self._grid.limit = nbytes

    def close(self, *, keep_state: bool = False) -> None:
        """End the run and the SuperLink."""
        if self._link is not None and self._grid is not None and self._superlink.alive():
            self._link.finish(self._grid, "completed")
        self._link = self._grid = None
        self._superlink.close(keep_state=keep_state)
