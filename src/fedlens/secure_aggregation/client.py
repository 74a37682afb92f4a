"""A client's part: one function for each stage, from what the client kept to what it keeps and sends. Pure: messages
and the store are the caller's.

    advertise   its public keys of this attempt, signed
    share       shares of its two secrets, encrypted for its neighbours
    mask        its update, masked
    consent     its signature of the list of clients whose masked updates the server has
    unmask      the shares that it holds: of a client in that list the share of its own mask, of another one the share
                of its key, never both

Every function refuses to be called twice in one attempt: two masked updates under the same masks would give away their
difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import field, replace

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedlens.core.randomness import KEY_BYTES, random_bytes
from fedlens.core.types import State
from fedlens.errors import ProtocolError
from fedlens.secure_aggregation.graph import honest_survivors
from fedlens.secure_aggregation.keys import Advert, PrivateKeys, agree, derived, verify
from fedlens.secure_aggregation.masks import Words, add_mask
from fedlens.secure_aggregation.registered import NO_KEYS, RegisteredKeys
from fedlens.secure_aggregation.session import Session
from fedlens.secure_aggregation.shares import seal, split, unseal
from fedlens.secure_aggregation.tensors import from_tensor, to_tensor

ADVERTISED, SHARED, MASKED, CONSENTED = range(1, 5)
_STAGES = ("nothing", "advertise", "share", "mask", "consent")


@dataclass(frozen=True, config=ConfigDict(ser_json_bytes="hex", val_json_bytes="hex"))
class ClientState:
    """What a client keeps from one stage to the next; nobody else sees it.

    done       the last stage that it has finished
    seed       the secret that its own mask is made of
    own_share  its share of that secret
    threshold  shares that open a secret
    least      clients of `cohort` whose updates are added up, at least
    adverts    the public keys of its neighbours
    present    the neighbours with which it has masks
    survivors  the list that it has signed
    """

    client: str
    session: Session
    keys: PrivateKeys
    done: int = ADVERTISED
    seed: bytes = b""
    own_share: bytes = b""
    threshold: int = 0
    least: int = 0
    cohort: int = 0
    adverts: Mapping[str, bytes] = field(default_factory=dict)
    present: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()

    def kept(self) -> State:
        """As tensors, for the store of the round's stages."""
        return {"secrets": to_tensor(_adapter.dump_json(self))}

    @classmethod
    def of(cls, kept: State) -> ClientState:
        """Raises ProtocolError: nothing was kept, or it cannot be read."""
        try:
            return _adapter.validate_json(from_tensor(kept["secrets"]))
        except (KeyError, ValidationError) as error:
            raise ProtocolError("this client has no part in this attempt at the round") from error

    @property
    def honest(self) -> int:
        """The survivors at least that do not work together with the server."""
        return honest_survivors(self.cohort, self.least)

    def after(self, stage: int) -> ClientState:
        """Itself, if `stage` was the last one.

        Raises:
            ProtocolError: it was not: a stage is repeated or missed.
        """
        if self.done != stage:
            raise ProtocolError(f"a message out of its turn: this client's last stage was {_STAGES[self.done]}")
        return self


_adapter = TypeAdapter(ClientState)


def advertise(client: str, session: Session, known: RegisteredKeys = NO_KEYS) -> tuple[ClientState, bytes]:
    """The first state, and the public keys.

    Raises:
        RuntimeFailure: the system has no source of randomness.
    """
    keys = PrivateKeys.new()
    return ClientState(client, session, keys), keys.advert(client, session, known).to_bytes()


def share(
    state: ClientState,
    adverts: Mapping[str, bytes],
    threshold: int,
    least: int,
    cohort: int,
    known: RegisteredKeys = NO_KEYS,
) -> tuple[ClientState, dict[str, bytes], bytes]:
    """The shares of this client's secrets, encrypted for each neighbour, and a commitment to its mask's seed.

    adverts    public keys of the neighbours, by name
    threshold  shares that open a secret; `least`: clients of `cohort` whose updates are added up, at least

    Raises:
        ProtocolError: a key is forged or comes twice; a number would let the server open single updates.
    """
    state.after(ADVERTISED)
    _check_numbers(threshold, len(adverts) + 1, "shares open a secret")
    _check_numbers(least, cohort, "updates are added up")
    neighbours = _checked(state, adverts, known)
    seed = random_bytes(KEY_BYTES)
    holders = holders_of(state.client, adverts)
    pairs = zip(split(state.keys.mask_key, threshold, len(holders)), split(seed, threshold, len(holders)), strict=True)
    held = dict(zip(holders, (first + second for first, second in pairs), strict=True))
    sealed = {name: _seal(state, name, neighbours[name], held[name]) for name in neighbours}
    kept = replace(
        state,
        done=SHARED,
        seed=seed,
        own_share=held[state.client][KEY_BYTES:],
        threshold=threshold,
        least=least,
        cohort=cohort,
        adverts=dict(adverts),
    )
    return kept, sealed, commitment(seed)


def mask(state: ClientState, present: Collection[str], vector: Words) -> ClientState:
    """Mask `vector`, in place. `present`: the neighbours that have shared their secrets.

    Raises:
        ProtocolError: they are too few, or no neighbours.
    """
    state.after(SHARED)
    if not set(present) <= state.adverts.keys():
        raise ProtocolError("masks with clients that are no neighbours")
    if len(set(present)) + 1 < state.threshold:
        raise ProtocolError(f"{len(set(present))} neighbours, with which {state.threshold} shares cannot be had")
    add_mask(vector, own_mask(state.seed, state.client, state.session))
    for name in sorted(present):
        key = pair_mask(state.keys.mask_key, Advert.from_bytes(state.adverts[name]), state.client, name, state.session)
        add_mask(vector, key, subtract=name < state.client)
    return replace(state, done=MASKED, present=tuple(sorted(present)))


def consent(state: ClientState, survivors: Collection[str]) -> tuple[ClientState, bytes]:
    """The signature of the list of clients whose masked updates are added up.

    Raises:
        ProtocolError: the list lacks this client, or is too short to hide it.
    """
    state.after(MASKED)
    listed = set(survivors)
    if state.client not in listed or len(listed) != len(survivors):
        raise ProtocolError("a list of survivors without this client, or with one twice")
    if len(listed) < state.least:
        raise ProtocolError(f"{len(listed)} survivors, of which {state.least} are needed")
    if len(listed.intersection(state.present)) + 1 < state.threshold:
        raise ProtocolError(f"fewer than {state.threshold} survivors among this client's neighbours")
    signature = state.keys.sign(survivors_label(state.session, listed))
    return replace(state, done=CONSENTED, survivors=tuple(sorted(listed))), signature


def unmask(state: ClientState, signatures: Mapping[str, bytes], sealed: Mapping[str, bytes]) -> dict[str, bytes]:
    """The shares that this client holds, by the client whose secret they are of; one that cannot be decrypted is left
    out.

    signatures  of the list of survivors, by the neighbours that consented
    sealed      the neighbours' shares for this client

    Raises:
        ProtocolError: a signature is forged: another client was given another list; or they are too few.
    """
    state.after(CONSENTED)
    label = survivors_label(state.session, state.survivors)
    for name, signature in signatures.items():
        if name not in state.survivors or name not in state.adverts:
            raise ProtocolError(f"a signature of {name}, which is no surviving neighbour")
        verify(Advert.from_bytes(state.adverts[name]).signing_key, signature, label, f"the survivors by {name}")
    if len(signatures) + 1 < state.threshold:
        raise ProtocolError(f"{len(signatures)} signatures of the survivors, of which {state.threshold - 1} are needed")
    opened = {name: _unsealed(state, name, sealed[name]) for name in sealed if name in state.present}
    held = {name: _one_of(pair, survives=name in state.survivors) for name, pair in opened.items() if pair is not None}
    return held | {state.client: state.own_share}


# -- what both sides know ----------------------------------------------------------------------------------------------


def holders_of(client: str, neighbours: Collection[str]) -> list[str]:
    """Who holds the shares of the client's secrets, in the order of the shares: the client itself and its
    neighbours."""
    return sorted({client, *neighbours})


def commitment(seed: bytes) -> bytes:
    """Shows later that the right seed was opened; says nothing of 256 random bits before."""
    return hashlib.sha256(b"seed" + seed).digest()


def own_mask(seed: bytes, client: str, session: Session) -> bytes:
    """The key of a client's own mask."""
    return derived(seed, session.label("own mask", client))


def pair_mask(private: bytes, other: Advert, client: str, name: str, session: Session) -> bytes:
    """The key of the mask that `client` and `name` have together: the one whose name comes first in the alphabet adds
    it, the other one subtracts it."""
    return agree(private, other.mask_key, session.label("pair mask", *sorted((client, name))))


def survivors_label(session: Session, survivors: Collection[str]) -> bytes:
    """What clients sign of a list of survivors."""
    return session.label("survivors") + hashlib.sha256(json.dumps(sorted(survivors)).encode()).digest()


# ----------------------------------------------------------------------------------------------------------------------


def _check_numbers(least: int, of: int, what: str) -> None:
    """Raises ProtocolError: `least` is not more than half of all, or cannot be had. Were it half, a server could give
    two halves different lists of survivors, and open both secrets of one client."""
    if not (2 <= least <= of and 2 * least > of):
        raise ProtocolError(f"a threshold of {least} by which {what}, with {of} clients; it has to be more than half")


def _checked(state: ClientState, adverts: Mapping[str, bytes], known: RegisteredKeys) -> dict[str, Advert]:
    """The neighbours' public keys, read and checked."""
    found = {name: Advert.from_bytes(content) for name, content in adverts.items()}
    if state.client in found:
        raise ProtocolError("a client cannot be its own neighbour")
    for name, advert in found.items():
        advert.check(name, state.session, known)
    everybody = [state.keys.public, *found.values()]
    different = {key for advert in everybody for key in (advert.mask_key, advert.cipher_key, advert.signing_key)}
    if len(different) != 3 * len(everybody):
        raise ProtocolError("the same public key of two clients")
    return found


def _seal(state: ClientState, receiver: str, advert: Advert, content: bytes) -> bytes:
    label = state.session.label("shares", state.client, receiver)
    return seal(agree(state.keys.cipher_key, advert.cipher_key, label), content, label)


def _unsealed(state: ClientState, sender: str, content: bytes) -> bytes | None:
    label = state.session.label("shares", sender, state.client)
    key = agree(state.keys.cipher_key, Advert.from_bytes(state.adverts[sender]).cipher_key, label)
    try:
        pair = unseal(key, content, label)
    except ProtocolError:
        return None
    return pair if len(pair) == 2 * KEY_BYTES else None


def _one_of(pair: bytes, *, survives: bool) -> bytes:
    return pair[KEY_BYTES:] if survives else pair[:KEY_BYTES]
