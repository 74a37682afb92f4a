import errno
import os

import pytest
import torch

from fedlens.core.client_store import ClientStore
from fedlens.core.types import Stage
from fedlens.errors import CheckpointError
from fedlens.federation import checkpoints as module
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.stopping import Progress
from fedlens.strategies.base import ServerState


def checkpoint(number: int) -> Checkpoint:
    state = ServerState({"w": torch.full((3,), float(number))}, {"m/w": torch.arange(3.0)})
    return Checkpoint(number, state, Progress(1, 0.5, 0.8, 2), {"a": number, "b": None}, None)


def test_what_is_saved_comes_back(tmp_path) -> None:
    store = Checkpoints(tmp_path)
    store.save(checkpoint(7))
    found = store.latest(print)
    assert found is not None
    assert (found.round, found.progress, found.versions) == (7, Progress(1, 0.5, 0.8, 2), {"a": 7, "b": None})
    assert torch.equal(found.state.shared["w"], torch.full((3,), 7.0))
    assert torch.equal(found.state.extra["m/w"], torch.arange(3.0))


def test_no_checkpoint_is_none(tmp_path) -> None:
    assert Checkpoints(tmp_path / "nowhere").latest(print) is None


def test_the_oldest_go(tmp_path) -> None:
    store = Checkpoints(tmp_path, keep=2)
    for number in range(1, 6):
        store.save(checkpoint(number))
    assert store.rounds() == [4, 5]


@pytest.mark.parametrize("file", ["state.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_passed_over_and_said(tmp_path, file: str, share: float) -> None:
    store = Checkpoints(tmp_path)
    store.save(checkpoint(1))
    store.save(checkpoint(2))
    path = tmp_path / "round-00000002" / file
    os.truncate(path, int(path.stat().st_size * share))
    notes: list[str] = []
    found = store.latest(notes.append)
    assert found is not None
    assert found.round == 1
    assert len(notes) == 1
    assert "round 2 is damaged" in notes[0]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"{}", b'{"sha256": 1, "round', b"\x00" * 8])
def test_a_damaged_checkpoint_is_said_without_a_decoders_words(tmp_path, content: bytes) -> None:
    store = Checkpoints(tmp_path)
    store.save(checkpoint(1))
    store.save(checkpoint(2))
    (tmp_path / "round-00000002" / "checkpoint.json").write_bytes(content)
    notes: list[str] = []
    found = store.latest(notes.append)
    assert found is not None
    assert found.round == 1
    assert notes == ["checkpoint of round 2 is damaged (checkpoint.json cannot be read); taking the one before it"]


def test_a_flipped_bit_is_noticed(tmp_path) -> None:
    store = Checkpoints(tmp_path)
    store.save(checkpoint(1))
    store.save(checkpoint(2))
    path = tmp_path / "round-00000002" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = store.latest(lambda _note: None)
    assert found is not None
    assert found.round == 1


def test_every_checkpoint_damaged_is_an_error(tmp_path) -> None:
    store = Checkpoints(tmp_path)
    store.save(checkpoint(1))
    (tmp_path / "round-00000001" / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError, match="every checkpoint"):
        store.latest(lambda _note: None)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch) -> None:
    store = Checkpoints(tmp_path)
    store.save(checkpoint(1))

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(CheckpointError, match=r"round 2.*No space left.*make room"):
        store.save(checkpoint(2))
    assert store.rounds() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["round-00000001"]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: Checkpoints(folder).save(checkpoint(1)),
        lambda folder: Checkpoints(folder).save_best(checkpoint(1).state.shared),
        lambda folder: ClientStore(folder).save("north", 1, {"x": torch.zeros(1)}),
        lambda folder: ClientStore(folder).stage("north", 1, Stage()).save({"x": torch.zeros(1)}),
    ],
    ids=["checkpoint", "best model", "client store", "stage"],
)
def test_a_file_where_the_folder_should_be(tmp_path, write) -> None:
    """Nothing can be written there, and no half-written file can be removed either."""
    (tmp_path / "taken").touch()
    with pytest.raises(CheckpointError, match=r"could not be written|cannot be written"):
        write(tmp_path / "taken")


def test_an_interrupted_write_does_not_count(tmp_path) -> None:
    store = Checkpoints(tmp_path)
    store.save(checkpoint(1))
    (tmp_path / "round-00000002.tmp").mkdir()
    assert store.rounds() == [1]


def test_a_client_is_found_as_it_was(tmp_path) -> None:
    """The server may go on from a round before the client's newest version."""
    store = ClientStore(tmp_path)
    for version in (1, 3, 5):
        store.save("site/1", version, {"v": torch.tensor([float(version)])})
    assert store.open("site/1", 3)["v"].item() == 3
    with pytest.raises(CheckpointError, match="version 5"):  # discarded by going back to 3
        store.open("site/1", 5)
    assert store.open("site/1", None) == {}
    assert store.open("other", None) == {}


def test_the_oldest_versions_go(tmp_path) -> None:
    store = ClientStore(tmp_path, keep=2)
    for version in range(1, 6):
        store.save("a", version, {"v": torch.zeros(1)})
    assert sorted(path.stem for path in (tmp_path / "a").iterdir()) == ["00000004", "00000005"]


@pytest.mark.parametrize("other", [{"w": torch.zeros(3)}, {"v": torch.zeros(2)}, {}])
def test_another_model_than_the_run_s(other: dict[str, torch.Tensor]) -> None:
    kept = Checkpoint(1, ServerState({"w": torch.zeros(2)}))
    kept.check_model({"w": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"the model is not the one of this run: [vw] is"):
        kept.check_model(other)
