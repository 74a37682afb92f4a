"""A site's file of the other sites' public keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.problems import refuses

from fedlens.config.site import load_site
from fedlens.flower.peers import read_peers, registered_keys


def lines(made: Path) -> list[str]:
    return [(made / "clients" / name / "client.pub").read_text() for name in ("client1", "client2")]


def test_the_lines_of_fedlens_certs_are_read(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "peers.pub"
    file.write_text("\n".join([*lines(made), ""]))
    folder = made / "clients" / "client1"
    keys = registered_keys(load_site(None, ["data_dir=.", f"certs={folder}", f"peers={file}"]))
    assert keys.peers is not None and keys.own is not None and keys.peers.keys() == {"client1", "client2"}
    keys.check("client1", keys.sign(b"keys"), b"keys")


def test_a_site_without_keys_knows_nobody() -> None:
    keys = registered_keys(load_site(None, ["data_dir=."]))
    assert (keys.own, keys.peers) == (None, None)


WRONG = {
    "twice": lambda two: [two[0], two[0]],
    "another kind": lambda two: ["ssh-ed25519 AAAA x"],
    "no key": lambda two: ["a b"],
    "no name": lambda two: [two[0].rsplit(" ", 1)[0]],
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_another_file_is_refused(made: Path, tmp_path: Path, change) -> None:
    file = tmp_path / "peers.pub"
    file.write_text("\n".join(change(lines(made))))
    with refuses(("unreadable", "peers")):
        read_peers(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with refuses(("not_found", str(tmp_path / "peers.pub"))):
        read_peers(tmp_path / "peers.pub")
