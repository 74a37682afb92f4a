"""Keys of one attempt are bound to the keys that a federation has registered."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key

from fedlens.errors import ProtocolError
from fedlens.secure_aggregation import client as clients
from fedlens.secure_aggregation.registered import REGISTERED_BYTES, RegisteredKeys
from fedlens.secure_aggregation.session import Session

NAMES = ("a", "b", "c")
SESSION = Session("00" * 16, 1, 0)


@pytest.fixture(scope="module")
def own():
    return {name: generate_private_key(SECP384R1()) for name in NAMES}


def shared(own, signing):
    """What client a makes of the others' keys. `signing`: client → the registered key with which it signs."""
    known = RegisteredKeys(own["a"], {name: own[name].public_key() for name in ("b", "c") if name in own})
    state, _ = clients.advertise("a", SESSION, known)
    adverts = {name: clients.advertise(name, SESSION, RegisteredKeys(signing[name]))[1] for name in ("b", "c")}
    return clients.share(state, adverts, 2, 2, 3, known)


def test_keys_that_registered_clients_have_signed_are_taken(own) -> None:
    state, sealed, _ = shared(own, own)
    assert sealed.keys() == {"b", "c"}
    assert clients.mask(state, sealed, np.zeros(2, np.uint64)).done == clients.MASKED


@pytest.mark.parametrize("key", ["none", "another's", "new"])
def test_keys_that_another_has_signed_are_refused(own, key: str) -> None:
    forged = {"none": None, "another's": own["c"], "new": generate_private_key(SECP384R1())}[key]
    with pytest.raises(ProtocolError, match="b has not signed its keys with its registered key"):
        shared(own, {**own, "b": forged})


def test_a_client_that_is_not_registered_is_refused(own) -> None:
    without = {name: key for name, key in own.items() if name != "c"}
    with pytest.raises(ProtocolError, match="c is none of the clients whose keys are known here"):
        shared(without, own)


def test_who_has_no_key_signs_with_zeros_and_who_knows_nobody_asks_for_nothing() -> None:
    assert RegisteredKeys().sign(b"keys") == bytes(REGISTERED_BYTES)
    RegisteredKeys().check("b", bytes(REGISTERED_BYTES), b"keys")
