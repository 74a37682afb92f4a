"""The server's part of one attempt: who shares with whom, the sum of masked updates, and its unmasking. Pure: messages
are the caller's.

The server sees public keys, encrypted shares, masked updates, signatures; and in the end, for each client, either the
seed of its own mask (its update is in the sum) or its mask key (it is not). So it opens the sum, and no update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedlens.core.randomness import KEY_BYTES
from fedlens.errors import ProtocolError
from fedlens.secure_aggregation.client import commitment, holders_of, own_mask, pair_mask, survivors_label
from fedlens.secure_aggregation.graph import Graph, connected, holders_needed
from fedlens.secure_aggregation.keys import Advert, public_key, verify
from fedlens.secure_aggregation.masks import Words, add_mask
from fedlens.secure_aggregation.session import Session
from fedlens.secure_aggregation.shares import combine_right


class MaskedSum:
    """One attempt. Its methods are called in the order of the stages, once for each client that has answered.

    graph      client → its neighbours
    threshold  the share of the cohort that must stay, and of a client's neighbours that open its secrets
    wrong      after the last stage: clients whose wrong share was left out → the client whose secret it was of
    """

    def __init__(self, session: Session, graph: Graph, threshold: float) -> None:
        self.session = session
        self.least = holders_needed(len(graph), threshold)
        self._graph = graph
        self._share = threshold
        self._adverts: dict[str, bytes] = {}
        self._sealed: dict[str, Mapping[str, bytes]] = {}
        self._commitments: dict[str, bytes] = {}
        self._sum: Words | None = None
        self._added: list[str] = []
        self._signatures: dict[str, bytes] = {}
        self._opened: dict[str, Mapping[str, bytes]] = {}
        self.wrong: dict[str, str] = {}

    @property
    def cohort(self) -> int:
        return len(self._graph)

    @property
    def survivors(self) -> tuple[str, ...]:
        """The clients whose masked updates are in the sum."""
        return tuple(sorted(self._added))

    @property
    def connected(self) -> bool:
        """Whether the survivors' masks hide the sum of every part of them."""
        return connected(self._graph, self._added)

    # -- keys and shares -----------------------------------------------------------------------------------------------

    def advertised(self, client: str, advert: bytes) -> None:
        """Raises ProtocolError: the keys are not this client's of this attempt."""
        Advert.from_bytes(advert).check(client, self.session)
        self._adverts[client] = advert

    def threshold(self, client: str) -> int:
        """How many shares open a secret of the client."""
        return holders_needed(len(self._graph[client]) + 1, self._share)

    def adverts_for(self, client: str) -> dict[str, bytes]:
        """The public keys of the client's neighbours that have advertised theirs."""
        return {name: self._adverts[name] for name in sorted(self._graph[client] & self._adverts.keys())}

    def can_share(self) -> list[str]:
        """The clients with enough neighbours to share their secrets with."""
        return [name for name in self._adverts if len(self.adverts_for(name)) + 1 >= self.threshold(name)]

    def shared(self, client: str, sealed: Mapping[str, bytes], committed: bytes) -> None:
        """Raises ProtocolError: the shares are not for exactly the client's neighbours."""
        if sealed.keys() != self.adverts_for(client).keys():
            raise ProtocolError(f"the shares of {client} are not for its neighbours")
        self._sealed[client], self._commitments[client] = sealed, committed

    # -- masked updates ------------------------------------------------------------------------------------------------

    def present(self, client: str) -> tuple[str, ...]:
        """The client's neighbours that have shared their secrets: with them it has masks."""
        return tuple(sorted(self._graph[client] & self._sealed.keys()))

    def can_mask(self) -> list[str]:
        """The clients that have shared their secrets and have enough neighbours that did."""
        return [name for name in self._sealed if len(self.present(name)) + 1 >= self.threshold(name)]

    def add(self, client: str, vector: Words) -> None:
        """Add a masked update; the first one's memory becomes that of the sum."""
        if self._sum is None:
            self._sum = vector
        else:
            self._sum += vector
        self._added.append(client)

    def consented(self, client: str, signature: bytes) -> None:
        """Raises ProtocolError: it is not the client's signature of the survivors."""
        label, key = survivors_label(self.session, self._added), Advert.from_bytes(self._adverts[client]).signing_key
        verify(key, signature, label, f"the survivors by {client}")
        self._signatures[client] = signature

    # -- unmasking -----------------------------------------------------------------------------------------------------

    def signatures_for(self, client: str) -> dict[str, bytes]:
        """The signatures of the client's neighbours."""
        return {name: self._signatures[name] for name in self.present(client) if name in self._signatures}

    def sealed_for(self, client: str) -> dict[str, bytes]:
        """The encrypted shares for the client, by sender."""
        return {name: self._sealed[name][client] for name in self.present(client)}

    def opened(self, client: str, shares: Mapping[str, bytes]) -> None:
        """The shares that the client holds. Raises ProtocolError: one has another length."""
        if any(len(share) != KEY_BYTES for share in shares.values()):
            raise ProtocolError(f"a share of a wrong length from {client}")
        self._opened[client] = shares

    def total(self) -> Words:
        """The sum of the survivors' updates, without masks. Every secret is opened before the first mask is removed.

        Raises:
            ProtocolError: a secret cannot be opened; the sum stays masked.
        """
        assert self._sum is not None
        seeds = {name: self._seed(name) for name in self._added}
        survivors = set(self._added)
        gone = sorted(name for name in self._sealed if name not in survivors and self._partners(name))
        keys = {name: self._key(name) for name in gone}
        for name, seed in seeds.items():
            add_mask(self._sum, own_mask(seed, name, self.session), subtract=True)
        for name, key in keys.items():
            self._remove(name, key)
        return self._sum

    def _partners(self, gone: str) -> list[str]:
        """The survivors that have a mask with a client that is gone."""
        return [name for name in self._added if gone in self._graph[name]]

    def _remove(self, gone: str, key: bytes) -> None:
        """Remove the masks that the survivors have with a client that is gone."""
        assert self._sum is not None
        for name in self._partners(gone):
            mask = pair_mask(key, Advert.from_bytes(self._adverts[name]), gone, name, self.session)
            add_mask(self._sum, mask, subtract=name < gone)

    def _seed(self, client: str) -> bytes:
        return self._combined(client, lambda seed: commitment(seed) == self._commitments[client])

    def _key(self, client: str) -> bytes:
        mask_key = Advert.from_bytes(self._adverts[client]).mask_key
        return self._combined(client, lambda key: public_key(key) == mask_key)

    def _combined(self, client: str, right: Callable[[bytes], bool]) -> bytes:
        """The client's secret, from the shares of those that gave no wrong one yet."""
        holders = dict(enumerate(holders_of(client, self.adverts_for(client)), start=1))
        found = {
            index: self._opened[name][client]
            for index, name in holders.items()
            if name not in self.wrong and client in self._opened.get(name, {})
        }
        try:
            secret, wrong = combine_right(found, self.threshold(client), right)
        except ProtocolError as error:
            raise ProtocolError(f"{client}'s mask cannot be opened: {error}") from error
        if wrong:
            self.wrong[holders[wrong]] = client
        return secret
