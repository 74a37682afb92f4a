"""A whole attempt without training and network: plays the server and all clients, and keeps every message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlens.secure_aggregation import client as clients
from fedlens.secure_aggregation.client import ClientState
from fedlens.secure_aggregation.graph import graph
from fedlens.secure_aggregation.masks import Words
from fedlens.secure_aggregation.server import MaskedSum
from fedlens.secure_aggregation.session import Session

Change = Callable[[str, Any], Any]
"""(a client's name, its message) → the message that arrives."""


def unchanged(_client: str, message: Any) -> Any:
    return message


@dataclass
class Attempt:
    """`gone`: stage → clients that do not answer from it on; `change`: stage → what happens to its messages."""

    vectors: Mapping[str, Words]
    threshold: float = 0.5
    neighbours: int | None = None
    gone: Mapping[str, set[str]] = field(default_factory=dict)
    change: Mapping[str, Change] = field(default_factory=dict)
    session: Session = field(default_factory=lambda: Session.new(1, 0))
    states: dict[str, ClientState] = field(default_factory=dict)
    masked: dict[str, Words] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = sorted(self.vectors)
        self._away: set[str] = set()
        self.server = MaskedSum(self.session, graph(names, self.neighbours or len(names)), self.threshold)

    def run(self) -> Words:
        """The sum of the vectors of the clients that were there when masked updates were sent."""
        for stage in ("keys", "shares", "masked", "survivors", "unmasking"):
            self._away |= self.gone.get(stage, set())
            getattr(self, f"_{stage}")(self.change.get(stage, unchanged))
        return self.server.total()

    def _there(self, names: Any) -> list[str]:
        return [name for name in sorted(names) if name not in self._away]

    def _keep(self, name: str, state: ClientState) -> None:
        self.states[name] = ClientState.of(state.kept())

    def _keys(self, change: Change) -> None:
        for name in self._there(self.vectors):
            state, advert = clients.advertise(name, self.session)
            self._keep(name, state)
            self.server.advertised(name, change(name, advert))

    def _shares(self, change: Change) -> None:
        server = self.server
        for name in self._there(server.can_share()):
            state, sealed, committed = clients.share(
                self.states[name], server.adverts_for(name), server.threshold(name), server.least, server.cohort
            )
            self._keep(name, state)
            server.shared(name, change(name, sealed), committed)

    def _masked(self, change: Change) -> None:
        for name in self._there(self.server.can_mask()):
            vector = self.vectors[name].copy()
            self._keep(name, clients.mask(self.states[name], self.server.present(name), vector))
            self.masked[name] = vector.copy()
            self.server.add(name, change(name, vector))

    def _survivors(self, change: Change) -> None:
        for name in self._there(self.server.survivors):
            state, signature = clients.consent(self.states[name], self.server.survivors)
            self._keep(name, state)
            self.server.consented(name, change(name, signature))

    def _unmasking(self, change: Change) -> None:
        for name in self._there(self.server.survivors):
            given = clients.unmask(self.states[name], self.server.signatures_for(name), self.server.sealed_for(name))
            self.server.opened(name, change(name, given))
