"""A site that leaves, or whose run is over, keeps no secret of a round that was cut off."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flwr.app import Message, RecordDict
from tests.flower.fakes import TinySite

from fedlens.core.client_store import ClientStore
from fedlens.core.types import Stage
from fedlens.flower import app
from fedlens.flower.client import Place, ResidentClient, RunEnded, Terms
from fedlens.flower.message_handler import MessageHandler
from fedlens.flower.messages import HEAD, head


class Quiet:
    def note(self, text: str) -> None: ...


@pytest.mark.parametrize("stay", [False, True])
def test_secrets_of_a_round_that_was_cut_off_are_wiped(tmp_path: Path, monkeypatch, stay: bool) -> None:
    """With `stay`: before the next run is waited for."""
    store = ClientStore(tmp_path / "run-1" / "clients")
    store.stage("client 1", 1, Stage(1)).save({"secrets": torch.ones(3)})
    store.save("client 1", 1, {"kept": torch.ones(3)})
    found: list[int] = []

    def visit() -> None:
        found.append(len([*tmp_path.rglob("stages/*")]))
        raise RunEnded("all its rounds are done") if len(found) == 1 else KeyboardInterrupt

    client = ResidentClient(Place("127.0.0.1:9"), Terms(1, "", stay), lambda *_: TinySite(), tmp_path, Quiet())
    monkeypatch.setattr(client, "_visit", visit)
    if stay:
        with pytest.raises(KeyboardInterrupt):
            client.run()
    else:
        client.run()
    assert found == ([1, 0] if stay else [1])
    assert not [*tmp_path.rglob("stages/*")]
    assert store.read("client 1", 1).keys() == {"kept"}, "what it keeps between rounds stays"


def test_a_site_that_is_ended_wipes_its_secrets(tmp_path: Path, monkeypatch) -> None:
    ClientStore(tmp_path / "run-1" / "clients").stage("client1", 1, Stage(1)).save({"secrets": torch.ones(3)})
    client = ResidentClient(Place("127.0.0.1:9"), Terms(1, "", False), lambda *_: TinySite(), tmp_path, Quiet())

    def visit() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "_visit", visit)
    with pytest.raises(KeyboardInterrupt):
        client.run()
    assert not [*tmp_path.rglob("stages/*")]


@pytest.mark.parametrize("kind", ["finish", "refuse"])
def test_a_site_under_a_supernode_wipes_its_secrets_when_its_part_ends(tmp_path: Path, monkeypatch, kind: str) -> None:
    ClientStore(tmp_path / "run-1" / "clients").stage("client1", 1, Stage(1)).save({"secrets": torch.ones(3)})
    site = SimpleNamespace(state=tmp_path, client="client1", partition_id=0)
    monkeypatch.setattr(app, "_handler", lambda _about: (site, MessageHandler(None)))  # type: ignore[arg-type]
    message = Message(RecordDict({HEAD: head(kind, None, text="because")}), 7, "query", group_id="run-1")
    app.answer(message, SimpleNamespace(node_config={}, run_config={}, node_id=7))
    assert not [*tmp_path.rglob("stages/*")]
