from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fedlens.data.class_names import whole
from fedlens.data.partition.iid import Iid
from fedlens.data.user import from_datasets
from fedlens.errors import DataError

HOW = {"scheme": Iid(), "clients": 2, "validation": 0.1, "client_test": 0.1, "test_fraction": 0.2, "seed": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLENS_CACHE", str(tmp_path))


class Listed(Dataset):
    def __init__(self, images, labels=None, classes=None):
        self.images, self.labels = images, labels or [number % 2 for number in range(len(images))]
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


ARRAY = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)


@pytest.mark.parametrize(
    ("image", "channels"),
    [
        (Image.fromarray(ARRAY), 3),
        (Image.fromarray(ARRAY[..., 0]), 1),
        (Image.fromarray(ARRAY[..., 0]).convert("P"), 3),
        (ARRAY, 3),
        (ARRAY[..., 0], 1),
        (ARRAY.transpose(2, 0, 1).copy(), 3),
        (torch.from_numpy(ARRAY), 3),
        (torch.from_numpy(ARRAY).permute(2, 0, 1), 3),
        (torch.from_numpy(ARRAY)[..., 0], 1),
    ],
)
def test_every_kind_of_uint8_image_becomes_hwc(image, channels):
    data = from_datasets(Listed([image] * 20), **HOW)
    assert data.images.shape == (20, 4, 2, channels)
    assert data.images.dtype == torch.uint8
    assert torch.equal(data.images[7, ..., 0], torch.from_numpy(ARRAY[..., 0]))
    assert data.channels == channels


def test_float_tensors_stay_as_they_are():
    images = torch.randn(20, 3, 8, 8)
    data = from_datasets(TensorDataset(images, torch.arange(20) % 2), **HOW)
    assert torch.equal(data.images, images)
    assert data.channels == 3
    assert data.labels.tolist() == [0, 1] * 10
    assert data.class_names == ("0", "1")
    assert [client.name for client in data.clients] == ["client1", "client2"]


def test_grey_and_colour_together_become_colour():
    data = from_datasets(Listed([ARRAY] * 10 + [ARRAY[..., 0]] * 10), **HOW)
    assert data.images.shape == (20, 4, 2, 3)
    assert torch.equal(data.images[15, ..., 2], torch.from_numpy(ARRAY[..., 0]))


def test_a_mapping_is_its_own_clients_and_test_is_the_test_set():
    clients = {"home": Listed([ARRAY] * 10, classes=["no", "yes"]), "away": Listed([ARRAY] * 20)}
    data = from_datasets(clients, Listed([ARRAY] * 5), **{**HOW, "scheme": None})
    sizes = {client.name: len(client.train) + len(client.val) + len(client.test) for client in data.clients}
    assert sizes == {"away": 20, "home": 10}
    assert data.test.tolist() == list(range(30, 35))
    assert data.class_names == ("no", "yes")


def test_a_stream_of_items():
    class Stream(IterableDataset):
        def __iter__(self):
            return ((ARRAY, number % 2) for number in range(20))

    assert len(from_datasets(Stream(), **HOW).images) == 20


def test_the_key_follows_the_content():
    def key(images, labels=None):
        return from_datasets(Listed(images, labels), **HOW).cache_key

    images = [ARRAY] * 20
    assert key(images) == key(list(images))
    assert key(images) != key([*images[:-1], ARRAY + 1])
    assert key(images) != key(images, [0, 0, 1, 1] * 5)


def of(classes, *labels):
    return Listed([ARRAY] * len(labels), list(labels), classes and list(classes))


@pytest.mark.parametrize(
    ("data", "others", "labels", "names"),
    [
        ({"x": of("ab", *[0, 1] * 10), "y": of("ba", *[0] * 20)}, {}, [0, 1] * 10 + [1] * 20, "ab"),
        ({"x": of("ab", *[0, 1] * 10), "y": of("bc", *[0, 1] * 10)}, {}, [0, 1] * 10 + [1, 2] * 10, "abc"),
        (of("ab", *[0, 1] * 10), {"test": of("ba", 0, 1, 1)}, [0, 1] * 10 + [1, 0, 0], "ab"),
        (of("ab", *[0, 1] * 10), {"test": of("b", 0)}, [0, 1] * 10 + [1], "ab"),
        (of("ab", *[0, 1] * 10), {"test": of(None, 0, 1)}, [0, 1] * 10 + [0, 1], "ab"),
        (of("ab", *[0, 1] * 10), {"class_names": ["b", "a"]}, [1, 0] * 10, "ba"),
        (of("ab", *[0, 1] * 10), {"class_names": ["x", "y"]}, [0, 1] * 10, "xy"),
        (ConcatDataset([of("ab", *[0] * 10), of("ba", *[0] * 10)]), {}, [0] * 10 + [1] * 10, "ab"),
        (Subset(of("ab", *[0, 1] * 10), range(4, 20)), {"test": of("ba", 0, 1)}, [0, 1] * 8 + [1, 0], "ab"),
    ],
)
def test_classes_are_matched_by_name(data, others, labels, names):
    how = {**HOW, "scheme": None if isinstance(data, dict) else Iid()}
    found = from_datasets(data, others.pop("test", None), **how, **others)
    assert found.labels.tolist() == labels
    assert found.class_names == tuple(names)


@pytest.mark.parametrize(
    ("data", "test", "others", "words"),
    [
        (of("ab", *[0, 1] * 10), of("abc", 0, 2), {}, "test split has images of 'c', and no training image"),
        ({"x": of("ab", 0, 1), "y": of("ba", 0, 1), "z": of(None, 0)}, None, {}, "no `classes`, and the others"),
        ({"x": of("ab", 0, 1), "y": of("ba", 0)}, None, {"class_names": ["a", "c"]}, "class_names lacks b"),
        (of("ab", 0, 1, 2), None, {}, "label 2 is not one of the 2 classes"),
        (of("ab", 0, 1.5), None, {}, "item 1: the label 1.5 is not a whole number"),
        (Subset(ConcatDataset([of("ab", 0), of("ba", 0)]), [0]), None, {}, "join them afterwards"),
    ],
)
def test_classes_that_cannot_be_matched(data, test, others, words):
    with pytest.raises(DataError, match=words):
        from_datasets(data, test, **{**HOW, "scheme": None if isinstance(data, dict) else Iid()}, **others)


@pytest.mark.parametrize(
    ("data", "others", "words"),
    [
        (Listed([]), {}, "empty"),
        ({}, {}, "empty"),
        (Listed([ARRAY, ARRAY[:2]]), {}, r"different shapes .*\(2, 2, 3\), \(4, 2, 3\).*resize"),
        (Listed([ARRAY, torch.rand(3, 4, 2)]), {}, "different types"),
        (Listed([ARRAY.astype(np.int32)]), {}, "item 0: an image of type torch.int32"),
        (Listed([np.zeros((4, 4, 4), np.uint8)]), {}, r"shape \(4, 4, 4\)"),
        (Listed([ARRAY] * 4, ["cat"] * 4), {}, "item 0: the label 'cat' is not a whole number; .*class_names="),
        (Listed([ARRAY] * 4, [None] * 4), {}, "item 0: the label None is not a whole number"),
        (Listed([ARRAY] * 4, [float("nan")] * 4), {}, "item 0: the label nan is not a whole number"),
        (Listed([ARRAY] * 4, list(torch.eye(4))), {}, r"item 0: a label of shape \(4,\), .*one-hot.*argmax"),
        ([{"image": ARRAY, "label": 0}], {}, "item 0: a mapping of 'image', 'label'; give pairs"),
        ([(ARRAY, 0, "x")], {}, r"item 0: a tuple of 3, where \(image, label\) is needed"),
        ([ARRAY], {}, r"item 0: a ndarray, where \(image, label\) is needed"),
        (DataLoader(Listed([ARRAY])), {}, r"a DataLoader in place of a data set: .*loader\.dataset"),
        ("photos", {}, r"'photos' in place of a data set: images in a folder are read by data\.path"),
        (5, {}, "int is no data set"),
        (Listed([ARRAY] * 20), {"class_names": ["one"]}, "label 1 is not one of the 1 classes"),
        (Listed([ARRAY] * 4, [0, 1, -1, 0]), {}, "label -1"),
    ],
)
def test_bad_input(data, others, words):
    with pytest.raises(DataError, match=words):
        from_datasets(data, **HOW, **others)


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [
        ("I;16", "u2", [0, 255]),  # windowed from the least to the greatest, as such files are
        ("I", "i4", [0, 255]),
        ("F", "f4", [0, 255]),
        ("RGBA", "u1", [255, 40]),  # transparent on white; opaque as it is
        ("LA", "u1", [255, 40]),
    ],
)
def test_pil_images_become_what_files_become(mode, kind, expected):
    pixels = np.array([[3, 40], [3, 40]], kind)
    image = Image.fromarray(pixels)
    if mode in ("RGBA", "LA"):
        image = Image.merge(mode, [image] * (len(mode) - 1) + [Image.fromarray(np.array([[0, 255]] * 2, "u1"))])

    data = from_datasets(Listed([image] * 20), **HOW)

    assert data.images[0, 0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    "label", [1, 1.0, True, np.int64(1), np.array(1), np.array([1]), torch.tensor(1), torch.tensor([1]), np.float32(1)]
)
def test_what_is_a_class_number(label):
    number = whole(label)
    assert (number, type(number)) == (1, int)


def test_labels_with_gaps():
    images = [ARRAY] * 30
    assert from_datasets(Listed(images, [0, 5, 9] * 10), **HOW).class_names == tuple(map(str, range(10)))
    named = from_datasets(Listed(images, [0, 5, 90] * 10), **HOW, class_names=[f"c{n}" for n in range(91)])
    assert len(named.class_names) == 91
    with pytest.raises(DataError, match=r"the labels are 3 different numbers up to 90,000; number the classes from 0"):
        from_datasets(Listed(images, [0, 5, 90_000] * 10), **HOW)


@pytest.mark.parametrize(
    ("shape", "kind", "sides"), [((3, 8, 12), "f", (8, 12)), ((8, 12, 3), "u", (8, 12)), ((7,), "f", (7, 7))]
)
def test_sides(shape, kind, sides):
    image = torch.rand(shape) if kind == "f" else torch.zeros(shape, dtype=torch.uint8)
    assert from_datasets(Listed([image] * 20), **HOW).sides == sides
