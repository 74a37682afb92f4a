"""A site's images in somebody else's label space, and the same splits as in a simulation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.photos import CLASSES, photos

from fedlens.data.cache import Decoding
from fedlens.data.division import DivisionPlan
from fedlens.data.export import export
from fedlens.data.federate import federate
from fedlens.data.partition.natural import Natural
from fedlens.data.site import one_client, relabelled
from fedlens.data.sources.clients import ClientFolders
from fedlens.data.sources.imagefolder import ImageFolder
from fedlens.errors import DataError

SPLIT = {"validation": 0.2, "client_test": 0.2, "seed": 5}
SMALL = Decoding(8)


def brightest(data, row: int) -> int:
    """The class by the content: `photos` makes the channel of its class the brightest, of blue, green and red."""
    return 2 - int(data.images[row].double().mean((0, 1)).argmax())


@pytest.mark.parametrize("names", [CLASSES, CLASSES[::-1], ("spoon", "plate", "knife", "cup", "fork", "glass")])
def test_labels_follow_the_servers_names(tmp_path, names) -> None:
    table = relabelled(ImageFolder(photos(tmp_path)).load(), names)
    assert table.class_names == names
    data = one_client(table, "client1", SMALL, **SPLIT)
    for row, label in enumerate(data.labels.tolist()):
        assert names[label] == CLASSES[brightest(data, row)]


def test_a_site_may_hold_only_some_classes(tmp_path) -> None:
    table = relabelled(ImageFolder(photos(tmp_path, classes=("cup",))).load(), ("spoon", "cup"))
    assert set(table.labels.tolist()) == {1}


def test_an_empty_folder_of_an_unknown_class_does_no_harm(tmp_path) -> None:
    photos(tmp_path)
    (tmp_path / "spoon").mkdir()
    assert len(relabelled(ImageFolder(tmp_path).load(), CLASSES).labels) == 30


def test_unknown_classes_are_named(tmp_path) -> None:
    table = ImageFolder(photos(tmp_path)).load()
    with pytest.raises(DataError, match=r"the server knows no fork, plate; its 2 classes are cup, spoon: rename"):
        relabelled(table, ("cup", "spoon"))
    many = tuple(f"class{number}" for number in range(40))
    with pytest.raises(DataError, match=r"its 40 classes are class0, .*class19, …:") as caught:
        relabelled(table, many)
    assert "\n" not in str(caught.value)


def contents(data, rows) -> list[bytes]:
    return sorted(data.images[row].numpy().tobytes() for row in rows)


@pytest.mark.parametrize("test", [0.0, 0.2], ids=["no-test-folder", "test-folder"])
@pytest.mark.parametrize("owner", [(0, 1, 2), (0, 0, 1), (0, 1, 0, 0, 1, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("order", [CLASSES, CLASSES[::-1]], ids=["sorted", "reversed"])
def test_a_site_holds_out_what_the_client_holds_out_in_a_simulation(tmp_path, test: float, owner, order) -> None:
    photos(tmp_path / "all", each=20)
    (tmp_path / "all" / "classes.json").write_text(json.dumps(order))
    table = ImageFolder(tmp_path / "all").load()
    table = replace(table, clients=np.array([f"client{owner[row % len(owner)] + 1}" for row in range(60)]))
    export(table, DivisionPlan(Natural(), 3, 0.1, 0.1, test, seed=1), tmp_path / "out")

    held = ClientFolders(tmp_path / "out").load()
    together = federate(held, DivisionPlan(None, 3, test=test, **SPLIT), SMALL)
    assert held.class_names == order
    for client in together.clients:
        own = relabelled(ImageFolder(tmp_path / "out" / client.name).load(), held.class_names)
        alone = one_client(own, client.name, SMALL, **SPLIT)
        (site,) = alone.clients
        for split in ("train", "val", "test"):
            rows, others = getattr(site, split), getattr(client, split)
            assert len(rows) > 0
            assert contents(alone, rows) == contents(together, others), (client.name, split)
            assert sorted(alone.labels[rows].tolist()) == sorted(together.labels[others].tolist())


def test_a_sites_own_splits_come_first(tmp_path) -> None:
    for split, each in (("train", 6), ("val", 2), ("test", 3)):
        photos(tmp_path / split, each=each, seed=100 * each)
    table = ImageFolder(tmp_path).load()
    (client,) = one_client(table, "client1", SMALL, **SPLIT).clients
    assert [len(rows) for rows in (client.train, client.val, client.test)] == [18, 6, 9]
    assert set(table.split[client.test].tolist()) == {"test"}


def test_nothing_is_the_servers(tmp_path) -> None:
    data = one_client(ImageFolder(photos(tmp_path)).load(), "client1", SMALL, **SPLIT)
    assert len(data.test) == 0
    (client,) = data.clients
    assert client.name == "client1"
    assert np.array_equal(np.sort(np.concatenate([client.train, client.val, client.test])), np.arange(30))


def test_nothing_to_train_on(tmp_path) -> None:
    table = ImageFolder(photos(tmp_path, each=4)).load()
    table = replace(table, split=np.full(12, "test"))
    with pytest.raises(DataError, match="no images to train on: of 12 images, 12 are held out"):
        one_client(table, "client1", SMALL, **SPLIT)
