"""Rows with an image, a text or both: from a table to clients, and what is taken away or left out."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from fedlens.data.cache import Decoding
from fedlens.data.division import DivisionPlan
from fedlens.data.federate import federate
from fedlens.data.modalities import kind_of, modalities_of, take_away, without_images
from fedlens.data.partition.natural import Natural
from fedlens.data.sections import ModalitiesSection
from fedlens.data.site import one_client
from fedlens.data.types import ClientRows, DataReport, FederatedData, ImageTable
from fedlens.errors import ConfigError, DataError

NAMES = tuple(f"client{number}" for number in range(1, 11))


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def federated(clients: int = 10, **fields) -> FederatedData:
    """Each client has four rows: two to train on, one of validation and one of test; then come four of the global test.
    All have an image and a text."""
    size = 4 * clients + 4
    held = [
        ClientRows(name, rows(at, at + 1), rows(at + 2), rows(at + 3))
        for at, name in zip(range(0, 4 * clients, 4), NAMES, strict=False)
    ]
    whole = FederatedData(
        torch.full((size, 2, 2, 1), 7, dtype=torch.uint8),
        torch.arange(size) % 2,
        ("x", "y"),
        tuple(held),
        np.arange(size - 4, size),
        DataReport(size),
        "key",
        texts=[f"text {row}" for row in range(size)],
        has_text=torch.ones(size, dtype=torch.bool),
    )
    return replace(whole, **fields)


def without(size: int, *missing: int) -> torch.Tensor:
    """(size,) False in the rows `missing`."""
    has = torch.ones(size, dtype=torch.bool)
    has[list(missing)] = False
    return has


def own(client: ClientRows) -> np.ndarray:
    return np.concatenate([client.train, client.val, client.test])


def test_a_table_with_texts_becomes_a_federation(tmp_path):
    files = [tmp_path / f"{row}.png" if row % 4 else None for row in range(40)]
    for row, file in enumerate(files):
        if file is not None:
            cv2.imwrite(str(file), np.full((8, 8), 100 + row, np.uint8))
    files[5].write_text("no image")
    texts = [f"row {row}" if row % 4 < 2 else "" for row in range(40)]
    table = ImageTable(files, np.arange(40) // 2 % 2, ("a", "b"), clients=np.array(["n", "s"] * 20), texts=texts, channels=1)  # fmt: skip  # noqa: E501
    plan = DivisionPlan(Natural(), 2, 0.1, 0.1, 0.2, seed=0)

    data = federate(table, plan, Decoding(8, cache_dir=tmp_path / "cache"))
    site = one_client(table, "n", Decoding(8, cache_dir=tmp_path / "cache"), validation=0, client_test=0, seed=0)

    kept = [row for row in range(40) if row != 5]
    for one in (data, site):
        assert one.texts == [texts[row] for row in kept]
        assert one.has_image.tolist() == [row % 4 > 0 for row in kept]
        assert one.has_text.tolist() == [row % 4 < 2 for row in kept]
        assert one.images[:, 0, 0, 0].tolist() == [100 + row if row % 4 else 0 for row in kept]
        assert one.report.findings[0].startswith("left out 1 of 30 images that cannot be read")
    # "the same content" is about images: eleven rows of black pixels are no copies
    assert not any("same content" in note for note in (*data.report.notes, *site.report.notes))
    used = np.concatenate([data.test, *map(own, data.clients)])
    assert sorted(used.tolist()) == list(range(39))
    assert modalities_of(data, np.arange(39)) == (29, 19)


def test_a_table_of_images_alone_has_no_masks(tmp_path):
    table = ImageTable(np.zeros((20, 4, 4, 1), np.uint8), np.arange(20) % 2, ("a", "b"), channels=1)
    data = federate(table, DivisionPlan(None, 2, 0, 0, 0, seed=0), Decoding(4, cache_dir=tmp_path))
    assert (data.texts, data.has_image, data.has_text) == (None, None, None)
    assert without_images(data) is data
    assert modalities_of(data, np.arange(20)) == (20, 0)
    assert {kind_of(data, client) for client in data.clients} == {"image only"}


def test_kinds_are_those_of_training_and_validation_rows():
    data = federated(4, has_image=without(20, 0, 1, 2, 8), has_text=without(20, 4, 5, 6, 8 + 1))
    assert [kind_of(data, client) for client in data.clients] == ["text only", "image only", "both", "both"]
    assert modalities_of(data, data.clients[2].train) == (1, 1)


def test_rows_without_images_leave_for_a_model_of_images():
    # client1 has no training image left, client2 loses a training row, client3 its validation row; a test row goes
    data = federated(3, has_image=without(16, 0, 1, 4, 10, 12))

    left = without_images(data)

    assert [(one.name, *map(np.ndarray.tolist, (one.train, one.val, one.test))) for one in left.clients] == [
        ("client2", [5], [6], [7]),
        ("client3", [8, 9], [], [11]),
    ]
    assert left.test.tolist() == [13, 14, 15]
    assert left.report.notes == (
        "left out 5 rows without an image, for the model takes images alone, and 1 client with no other training row",
    )
    assert without_images(federated(3, has_image=without(16))).report.notes == ()


def test_what_is_left_without_texts_has_to_be_enough():
    with pytest.raises(DataError, match="no client has a training image, and the model takes images alone: choose a"):
        without_images(federated(2, has_image=torch.zeros(12, dtype=torch.bool)))
    with pytest.raises(DataError, match="two classes at least; the 2 clients have 2 training images, classes: x"):
        without_images(federated(2, has_image=without(12, 1, 5)))
    three = federated(2, class_names=("x", "y", "z"), labels=torch.tensor([0, 1, 0, 0, 1, 2] + [0] * 6))
    left = without_images(replace(three, has_image=without(12, 5)))
    lacking = "no client has a training image of z: the model cannot learn this class"
    assert left.report.notes[1:] == (lacking,)
    noted = replace(three, has_image=without(12, 5), report=DataReport(12, notes=(lacking,)))
    assert without_images(noted).report.notes == (lacking, left.report.notes[0])  # said once


def test_shares_of_the_clients_lose_a_modality_in_their_own_rows():
    data = federated()

    taken = take_away(data, ModalitiesSection(image_only=0.3, text_only=0.2), seed=1)

    kinds = {client.name: kind_of(taken, client) for client in taken.clients}
    assert sorted(kinds.values()) == ["both"] * 5 + ["image only"] * 3 + ["text only"] * 2
    for client in taken.clients:
        of = own(client)
        assert taken.has_image[of].tolist() == [kinds[client.name] != "text only"] * 4
        assert taken.has_text[of].tolist() == [kinds[client.name] != "image only"] * 4
        assert [bool(taken.texts[row]) for row in of] == taken.has_text[of].tolist()
    assert modalities_of(taken, taken.test) == (4, 4)
    assert (taken.division, taken.cache_key) == (data.division, data.cache_key)
    images, texts = (
        sorted(name for name, kind in kinds.items() if kind == only) for only in ("image only", "text only")
    )
    assert taken.report.notes == (
        f"data.modalities: 3 clients without texts ({', '.join(images)})",
        f"data.modalities: 2 clients without images ({', '.join(texts)})",
    )
    assert data.has_text.all()  # the given data is as it was
    assert data.has_image is None
    assert take_away(data, ModalitiesSection(), seed=1) is data


def lost(data: FederatedData, seed: int, **shares: float) -> dict[str, str]:
    taken = take_away(data, ModalitiesSection(**shares), seed)
    return {client.name: kind_of(taken, client) for client in taken.clients}


def test_who_loses_depends_on_the_seed_and_the_names_alone():
    data = federated()
    first = lost(data, 1, image_only=0.3, text_only=0.2)
    others = replace(data, clients=data.clients[::-1], labels=1 - data.labels)
    assert lost(others, 1, image_only=0.3, text_only=0.2) == first
    assert len({tuple(lost(data, seed, image_only=0.3).items()) for seed in range(5)}) > 1
    alone = lost(data, 1, text_only=0.2)  # another share of the one does not change who loses the other
    assert [name for name, kind in alone.items() if kind == "text only"] == [
        name for name, kind in first.items() if kind == "text only"
    ]


def test_all_clients_may_lose_one():
    assert sorted(lost(federated(3), 0, image_only=0.5, text_only=0.5).values()) == ["image only"] * 2 + ["text only"]
    assert set(lost(federated(3), 0, text_only=1).values()) == {"text only"}


def test_a_test_row_of_a_client_and_of_the_federation_keeps_both():
    data = federated(2)
    data = replace(data, test=np.concatenate([data.test, data.clients[0].test, data.clients[1].test]))
    taken = take_away(data, ModalitiesSection(image_only=0.5, text_only=0.5), seed=0)
    assert modalities_of(taken, taken.test) == (6, 6)
    assert {kind_of(taken, client) for client in taken.clients} == {"image only", "text only"}


def test_a_row_that_is_left_with_neither_leaves():
    everything = ModalitiesSection(image_only=1)
    data = federated(3, has_image=without(16, 0, 1, 4, 10, 12))
    taken = take_away(data, everything, seed=0)
    assert [(one.name, *map(np.ndarray.tolist, (one.train, one.val, one.test))) for one in taken.clients] == [
        ("client2", [5], [6], [7]),
        ("client3", [8, 9], [], [11]),
    ]
    assert taken.test.tolist() == [12, 13, 14, 15]
    assert taken.report.notes[1] == (
        "left out 4 rows that data.modalities left with neither image nor text, and 1 client with no other training row"
    )
    take_away(data, ModalitiesSection(text_only=0.4), seed=0)
    assert data.has_image.sum() == 11  # the given data is as it was
    with pytest.raises(DataError, match=r"data\.modalities: no training row is left"):
        take_away(replace(data, has_image=torch.zeros(16, dtype=torch.bool)), everything, seed=0)


@pytest.mark.parametrize(("key", "share"), [("image_only", 0.04), ("text_only", 0.05)])
def test_a_share_of_no_client_is_refused(key, share):
    with pytest.raises(ConfigError) as caught:
        take_away(federated(), ModalitiesSection(**{key: share}), seed=0)
    (problem,) = caught.value.problems
    assert (problem.code, problem.key) == ("incompatible", f"data.modalities.{key}")
    assert problem.line == (
        f"data.modalities.{key} = {share}: of 10 clients that is less than one: leave it out, or give a larger share"
    )


def test_data_without_texts_is_refused():
    with pytest.raises(DataError, match=r"data\.modalities: the data has no texts, so no client can be without one"):
        take_away(federated(texts=None, has_text=None), ModalitiesSection(text_only=0.5), seed=0)
