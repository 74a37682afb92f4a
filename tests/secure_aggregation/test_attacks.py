"""Messages that no honest party sends: each ends in one clear failure."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from tests.secure_aggregation.driven import Attempt

from fedlens.errors import ProtocolError
from fedlens.secure_aggregation import client as clients
from fedlens.secure_aggregation.graph import holders_needed
from fedlens.secure_aggregation.keys import ADVERT_BYTES, PrivateKeys
from fedlens.secure_aggregation.session import Session

NAMES = ("a", "b", "c", "d")


def given(length: int = 4):
    return {name: np.arange(length, dtype=np.uint64) for name in NAMES}


def only(client: str, change):
    return lambda name, message: change(message) if name == client else message


def flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 16]) + content[1:]


@pytest.mark.parametrize(
    ("stage", "change", "line"),
    [
        ("keys", flipped, "a forged signature of the public keys of b"),
        ("keys", lambda advert: advert[:-1], f"public keys of {ADVERT_BYTES - 1} bytes"),
        ("shares", lambda sealed: {"a": sealed["a"]}, "shares of b are not for its neighbours"),
        ("survivors", flipped, "a forged signature of the survivors by b"),
        ("unmasking", lambda shares: {**shares, "a": shares["a"][:-1]}, "a share of a wrong length from b"),
    ],
    ids=["key", "short key", "missing share", "signature", "short share"],
)
def test_a_forged_message_ends_the_attempt_with_a_line(stage: str, change, line: str) -> None:
    with pytest.raises(ProtocolError, match=line):
        Attempt(given(), 0.75, change={stage: only("b", change)}).run()


def every_share_wrong(shares):
    return {owner: flipped(share) for owner, share in shares.items()}


@pytest.mark.parametrize("liar", NAMES)
def test_the_client_that_gives_wrong_shares_is_found_and_the_sum_is_right(liar: str) -> None:
    """Three of four shares open a secret, so one can be left out. The last one is only used if another is wrong."""
    attempt = Attempt(given(), 0.75, change={"unmasking": only(liar, every_share_wrong)})
    assert (attempt.run() == given()["a"] * 4).all()
    assert set(attempt.server.wrong) == {liar} - {"d"}


def test_a_wrong_share_of_a_lost_clients_key_is_left_out() -> None:
    change = only("b", lambda shares: {**shares, "d": flipped(shares["d"])})
    five = {name: np.arange(4, dtype=np.uint64) for name in (*NAMES, "e")}
    attempt = Attempt(five, 0.6, gone={"masked": {"d"}}, change={"unmasking": change})
    assert (attempt.run() == five["a"] * 4).all()
    assert attempt.server.wrong == {"b": "d"}


def test_wrong_shares_without_others_to_spare_leave_the_sum_masked() -> None:
    with pytest.raises(ProtocolError, match="a's mask cannot be opened: of its 4 shares more are wrong than can be"):
        Attempt(given(), 1.0, change={"unmasking": only("b", every_share_wrong)}).run()


def test_shares_that_cannot_be_decrypted_count_as_missing() -> None:
    change = only("b", lambda sealed: {**sealed, "a": flipped(sealed["a"])})
    expected = given()["a"] * 4
    assert (Attempt(given(), 0.75, change={"shares": change}).run() == expected).all()
    with pytest.raises(ProtocolError, match="b's mask cannot be opened: 3 shares of a secret, of which 4"):
        Attempt(given(), 1.0, change={"shares": change}).run()


def test_keys_of_another_attempt_are_refused() -> None:
    session = Session.new(1, 0)
    keys = PrivateKeys.new()
    for other in (Session.new(1, 0), replace(session, round=2), replace(session, attempt=1)):
        with pytest.raises(ProtocolError, match="forged"):
            keys.advert("a", other).check("a", session)
    with pytest.raises(ProtocolError, match="forged"):
        keys.advert("a", session).check("b", session)


def begun(count: int = 4):
    """A client's first state, and the public keys of others."""
    session = Session.new(1, 0)
    state, _ = clients.advertise("a", session)
    return state, {name: PrivateKeys.new().advert(name, session).to_bytes() for name in NAMES[1:count]}


@pytest.mark.parametrize("threshold", [-1, 0, 1, 2, 5, 10**9])
def test_a_client_refuses_a_threshold_that_is_absurd(threshold: int) -> None:
    state, adverts = begun()
    with pytest.raises(ProtocolError, match=f"a threshold of {threshold} by which shares open a secret"):
        clients.share(state, adverts, threshold, 3, 4)
    with pytest.raises(ProtocolError, match=f"a threshold of {threshold} by which updates are added up"):
        clients.share(state, adverts, 3, threshold, 4)


def test_a_client_refuses_one_key_for_two_clients() -> None:
    session = Session.new(1, 0)
    state, _ = clients.advertise("a", session)
    twice = PrivateKeys.new()
    adverts = {name: twice.advert(name, session).to_bytes() for name in ("b", "c")}
    with pytest.raises(ProtocolError, match="the same public key of two clients"):
        clients.share(state, adverts, 2, 2, 3)


def test_a_public_key_of_low_order_is_refused() -> None:
    session = Session.new(1, 0)
    state, _ = clients.advertise("a", session)
    keys = PrivateKeys.new()
    zero = replace(keys.advert("b", session), mask_key=bytes(32), cipher_key=bytes(31) + b"\1")
    signed = session.label("keys", "b") + zero.mask_key + zero.cipher_key + zero.signing_key
    adverts = {"b": replace(zero, signature=keys.sign(signed)).to_bytes()}
    kept, _, _ = clients.share(state, adverts, 2, 2, 2)
    with pytest.raises(ProtocolError, match="a public key that is none"):
        clients.mask(kept, ["b"], np.zeros(3, np.uint64))


def test_no_stage_is_done_twice() -> None:
    state, adverts = begun()
    shared, _, _ = clients.share(state, adverts, 3, 3, 4)
    masked = clients.mask(shared, adverts, np.zeros(3, np.uint64))
    signed, _ = clients.consent(masked, NAMES)
    for again in (
        lambda: clients.share(shared, adverts, 3, 3, 4),
        lambda: clients.mask(masked, adverts, np.zeros(3, np.uint64)),
        lambda: clients.consent(signed, NAMES),
        lambda: clients.unmask(masked, {}, {}),
    ):
        with pytest.raises(ProtocolError, match="out of its turn"):
            again()


def test_a_client_opens_nothing_after_it_was_shown_another_list_than_its_neighbours() -> None:
    attempt = Attempt(given(), 0.5)
    attempt.gone = {"survivors": set(NAMES)}
    for stage in ("keys", "shares", "masked"):
        getattr(attempt, f"_{stage}")(lambda _name, message: message)
    states, signatures = {}, {}
    for names, told in ((("a", "b"), ("a", "b", "c")), (("c", "d"), NAMES)):
        for name in names:
            states[name], signatures[name] = clients.consent(attempt.states[name], told)
    with pytest.raises(ProtocolError, match="a forged signature of the survivors by c"):
        clients.unmask(states["a"], {"b": signatures["b"], "c": signatures["c"]}, attempt.server.sealed_for("a"))


@pytest.mark.parametrize("count", [2, 3, 4, 9, 10])
def test_no_two_lists_of_survivors_are_both_opened(count: int) -> None:
    """Two lists need twice the threshold of holders, and each holder signs one: with half, each part of the holders
    would open one of a client's two secrets."""
    assert 2 * holders_needed(count, 0.5) > count


def test_a_client_gives_one_kind_of_share_of_each_other_client() -> None:
    attempt = Attempt(given(), 0.5, gone={"masked": {"d"}})
    attempt.run()
    shares = attempt.server._opened["a"]
    key, seed = (attempt.states["d"].keys.mask_key, attempt.states["b"].seed)
    assert shares.keys() == set(NAMES)
    assert all(len(share) == 32 for share in shares.values())
    assert key not in shares.values() and seed not in shares.values()


@pytest.mark.parametrize("survivors", [("b", "c", "d"), ("a", "a", "b"), ("a", "b")])
def test_a_client_refuses_a_list_without_it_or_too_short(survivors) -> None:
    state, adverts = begun()
    shared, _, _ = clients.share(state, adverts, 3, 3, 4)
    masked = clients.mask(shared, adverts, np.zeros(3, np.uint64))
    with pytest.raises(ProtocolError, match="survivors"):
        clients.consent(masked, survivors)


def test_a_machine_without_randomness_is_one_line(monkeypatch) -> None:
    from fedlens.errors import RuntimeFailure

    def none(_count: int) -> bytes:
        raise NotImplementedError("/dev/urandom not found")

    monkeypatch.setattr(os, "urandom", none)
    with pytest.raises(RuntimeFailure, match="no secure source of random numbers"):
        clients.advertise("a", Session("00" * 16, 1, 0))
