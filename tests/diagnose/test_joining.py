"""What is read off a visit to a server, whatever came of it."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from importlib.metadata import version

import pytest

from fedlens.config.site import SiteConfig
from fedlens.diagnose import joining
from fedlens.diagnose.outcome import Barred, Joined, Welcome
from fedlens.diagnose.subject import Subject
from fedlens.diagnose.verdict import Unseen
from fedlens.flower.certificates import create, load_registry

HERE = Welcome(version("fedlens"), version("flwr"), 0.1, "client1", (1, 3), True)
KEY = Barred("key", "the server does not let this client in")


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "certs"
    create(folder, ["localhost"], ["client1"], 100)
    return folder


@pytest.fixture
def visited(certs, tmp_path):
    """A site with a key, after a visit that ended like this."""

    def of(met, **changes):
        site = SiteConfig(data_dir=".", certs=certs / "clients/client1", state_dir=tmp_path / "state")
        subject = Subject(site.model_copy(update=changes))
        subject.met = met
        return subject

    return of


@pytest.mark.parametrize(
    ("met", "status", "words"),
    [
        (HERE, "ok", "0.1 s ahead of the server's"),
        (replace(HERE, ahead=-20.0), "ok", "20.0 s behind the server's"),
        (replace(HERE, ahead=4.0), "warn", "4.0 s ahead of the server's; the server refuses more than 5 s ahead"),
        (replace(HERE, ahead=-100.0), "warn", "100.0 s behind"),
        (Barred("clock", "this machine's clock is 400 s behind"), "fail", "clock is 400 s behind"),
        (KEY, "ok", "near enough"),
        (Joined(), "ok", "near enough"),
    ],
)
def test_clocks(visited, met, status, words):
    seen = joining.clock(visited(met))
    assert seen.status == status
    assert words in seen.text


def test_clocks_without_keys(visited):
    """Nothing is signed: only what would confuse logs is told."""
    assert joining.clock(visited(replace(HERE, ahead=4.0), certs=None)).status == "ok"
    assert joining.clock(visited(replace(HERE, ahead=40.0), certs=None)).status == "warn"
    assert isinstance(joining.clock(visited(Joined(), certs=None)), Unseen)


@pytest.mark.parametrize(
    ("met", "status", "words"),
    [
        (HERE, "ok", "lets this site's key in"),
        (Joined(), "ok", "lets this site's key in"),
        (replace(HERE, registered="berlin"), "fail", "knows this key as berlin, and this site calls itself client1"),
        (Barred("other", "unavailable: no such thing"), "fail", "unavailable: no such thing"),
    ],
)
def test_keys(visited, met, status, words):
    seen = joining.authentication(visited(met))
    assert seen.status == status
    assert words in seen.text


def test_a_key_that_is_not_let_in_has_two_causes_and_both_are_told(visited, certs):
    seen = joining.authentication(visited(KEY))
    assert seen.status == "fail"
    assert "does not know it or has revoked it" in seen.text
    assert "still counts a client that is connected" in seen.text
    assert load_registry(certs).clients["client1"].fingerprint in seen.text
    assert "wait 25 s" in seen.advice
    assert "fedlens certs show" in seen.advice


def test_a_key_that_this_sites_own_client_holds_is_no_failure(visited, tmp_path):
    (tmp_path / "state").mkdir()
    with (tmp_path / "state" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        seen = joining.authentication(visited(KEY))
        taken = joining.partition(visited(HERE, partition_id=1))
    assert seen.status == taken.status == "warn"
    assert "client1 runs on this machine" in seen.text
    assert joining.authentication(visited(KEY)).status == "fail"
    assert joining.partition(visited(HERE, partition_id=1)).status == "fail"


def test_no_keys(visited):
    assert joining.authentication(visited(HERE, certs=None)).status == "ok"
    there = visited(HERE, certs=None, server_address="192.0.2.7:8080", insecure=True)
    assert joining.authentication(there).status == "warn"


@pytest.mark.parametrize(
    ("met", "status", "words"),
    [
        (HERE, "ok", "on both sides"),
        (replace(HERE, fedlens="99.1"), "fail", "99.1 at the server"),
        (replace(HERE, same_code=False), "fail", "the code of the server's run is another"),
        (replace(HERE, flwr="1.38.99"), "warn", "1.38.99 at the server"),
        (Joined(), "warn", "said nothing"),
        (Joined("the run at the server is not one of FedLens'"), "fail", "not one of FedLens'"),
    ],
)
def test_versions(visited, met, status, words):
    seen = joining.versions(visited(met))
    assert seen.status == status
    assert words in seen.text
    assert bool(seen.advice) == (status != "ok")


def test_partitions(visited):
    assert joining.partition(visited(HERE, partition_id=2)).text == "2 is free; taken: 1, 3"
    assert joining.partition(visited(replace(HERE, present=()))).status == "ok"
    taken = joining.partition(visited(HERE, partition_id=3))
    assert taken.status == "fail"
    assert "3 is taken by another client" in taken.text
    assert taken.advice.endswith("0 is free")


@pytest.mark.parametrize("look", [joining.versions, joining.partition])
def test_what_a_server_did_not_tell_is_not_judged(visited, look):
    assert isinstance(look(visited(KEY)), Unseen)
