"""Hugging Face data sets from a folder, and what is said when one cannot be had."""

from __future__ import annotations

import os

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from datasets.utils.logging import disable_progress_bar
from PIL import Image as Pillow

from fedlens.data.detect import detect
from fedlens.data.images import decode
from fedlens.data.sources import huggingface
from fedlens.data.sources.huggingface import HuggingFace
from fedlens.errors import DataError

disable_progress_bar()
FEATURES = Features({"photo": Image(), "kind": ClassLabel(names=["cat", "dog"]), "site": Value("string")})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def dataset(*shades: int, features: Features = FEATURES) -> Dataset:
    return Dataset.from_dict(
        {
            "photo": [Pillow.fromarray(np.full((4, 4, 3), shade, np.uint8)) for shade in shades],
            "kind": [shade % 2 for shade in shades],
            "site": [f"site{shade // 10}" for shade in shades],
        },
        features=features,
    )


def shades(table) -> list[int]:
    return [int(decode(path)[0, 0, 0]) for path in table.images]


def test_splits_columns_and_clients_are_found(tmp_path):
    parts = {"train": dataset(10, 11, 22), "validation": dataset(33), "test": dataset(44, 45)}
    DatasetDict(parts).save_to_disk(tmp_path / "set")

    table = HuggingFace(path=tmp_path / "set", client_column="site").load()

    assert shades(table) == [10, 11, 22, 33, 44, 45]
    assert table.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert table.class_names == ("cat", "dog")
    assert table.split.tolist() == ["train", "train", "train", "val", "test", "test"]
    assert table.clients.tolist() == ["site1", "site1", "site2", "site3", "site4", "site4"]
    assert table.groups is None
    assert detect(tmp_path / "set") == "huggingface"


def test_single_set_with_text_labels_and_groups(tmp_path):
    dataset(21, 12).save_to_disk(tmp_path / "set")

    table = HuggingFace(path=tmp_path / "set", label_column="site", group_column="kind").load()

    assert (table.class_names, table.labels.tolist()) == (("site1", "site2"), [1, 0])
    assert table.groups.tolist() == ["1", "0"]
    assert (table.split, table.clients) == (None, None)
    assert detect(tmp_path / "set") == "huggingface"


def test_images_are_written_once(tmp_path, monkeypatch):
    dataset(1, 2).save_to_disk(tmp_path / "set")
    first = HuggingFace(path=tmp_path / "set").load()
    monkeypatch.setattr(huggingface, "_export", None)
    os.utime(first.images[0].parent, (0, 0))

    again = HuggingFace(path=tmp_path / "set").load()

    assert again.images == first.images
    assert shades(again) == [1, 2]
    assert first.images[0].parent.stat().st_mtime > 0  # marked as used


def test_folder_that_load_dataset_reads(tmp_path):
    dataset(5, 6).to_parquet(tmp_path / "set" / "train.parquet")

    table = HuggingFace(dataset=str(tmp_path / "set")).load()

    assert (shades(table), table.labels.tolist()) == ([5, 6], [1, 0])


def test_split_can_be_left_out(tmp_path):
    DatasetDict({"train": dataset(1), "test": dataset(2)}).save_to_disk(tmp_path / "set")

    for left_out in ("", "none"):  # the empty text cannot be given on a command line
        assert shades(HuggingFace(path=tmp_path / "set", test_split=left_out).load()) == [1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train_split": "training"}, "no split 'training'; the data set has train; name one: data.train_split=train"),
        ({"test_split": "exam"}, "data.test_split: no split 'exam'"),
        ({"image_column": "site"}, "data.image_column: 'site' is not a column of images but Value"),
        ({"image_column": "picture"}, "data.image_column: 'picture' is not a column of images but missing"),
        ({"label_column": "class"}, "data.label_column: no column 'class'; there are photo, kind, site"),
        ({"client_column": "hospital"}, "data.client_column: no column 'hospital'"),
    ],
)
def test_wrong_names_list_the_right_ones(tmp_path, keys, message):
    DatasetDict({"train": dataset(1, 2)}).save_to_disk(tmp_path / "set")

    with pytest.raises(DataError, match=message):
        HuggingFace(path=tmp_path / "set", **keys).load()


def test_no_image_or_label_column(tmp_path):
    Dataset.from_dict({"text": ["a"], "label": [1]}).save_to_disk(tmp_path / "text")
    dataset(1).remove_columns("kind").save_to_disk(tmp_path / "unlabelled")

    with pytest.raises(DataError, match="no image column found; name it; there are text, label"):
        HuggingFace(path=tmp_path / "text").load()
    with pytest.raises(DataError, match="no label column found; name it; there are photo, site"):
        HuggingFace(path=tmp_path / "unlabelled").load()


def test_rows_without_a_label(tmp_path):
    unlabelled = dataset(2).map(lambda row: {**row, "kind": -1})
    DatasetDict({"train": dataset(1), "test": unlabelled}).save_to_disk(tmp_path / "set")

    with pytest.raises(DataError, match=r"no label in 1 of 2 rows, .* split test, row 0: .*: data\.test_split=none$"):
        HuggingFace(path=tmp_path / "set").load()


def part(labels, feature, column="photo"):
    pictures = [Pillow.new("RGB", (4, 4))] * len(labels)
    features = Features({column: Image(), "label": feature})
    return Dataset.from_dict({column: pictures, "label": labels}, features=features)


AB, BA, BC = ClassLabel(names=["a", "b"]), ClassLabel(names=["b", "a"]), ClassLabel(names=["b", "c"])


@pytest.mark.parametrize(
    ("train", "test", "labels", "names"),
    [
        (part([0, 1], AB), part([0, 1, 1], BA), [0, 1, 1, 0, 0], ("a", "b")),
        (part([0, 1], AB), part(["b", "a"], Value("string")), [0, 1, 1, 0], ("a", "b")),
        (part([0, 1], AB), part([0], BC), [0, 1, 1], ("a", "b")),
        (part(["x ", "y"], Value("string")), part(["y"], Value("string")), [0, 1, 1], ("x", "y")),
        (part([3, 5], Value("int64")), part([5.0], Value("float64")), [0, 1, 1], ("3", "5")),
    ],
)
def test_splits_agree_by_the_names_of_classes(tmp_path, train, test, labels, names):
    DatasetDict({"Training": train, "Testing": test, "extra": test}).save_to_disk(tmp_path / "set")

    table = HuggingFace(path=tmp_path / "set").load()

    assert (table.labels.tolist(), table.class_names) == (labels, names)
    assert "splits train/test (not read: extra), 2 classes" in table.notes[0]
    assert any("matched by name" in note for note in table.notes) == isinstance(train.features["label"], ClassLabel)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (part([0, 1], AB, "img"), r"no column 'photo' in the test split \(img, label\)"),
        (part([0], AB).rename_column("label", "kind"), "no column 'label' in the test split"),
        (part([0], AB).rename_column("photo", "x").add_column("photo", ["a"]), "holds no images but Value"),
        (part(["a|b"], Value("string")), "several labels in one row.* split test, row 0: 'a|b'"),
        (part(["nan"], Value("string")), "no label in 1 of 3 rows"),
    ],
)
def test_splits_that_do_not_fit_together(tmp_path, test, message):
    DatasetDict({"train": part([0, 1], AB), "test": test}).save_to_disk(tmp_path / "set")

    with pytest.raises(DataError, match=message):
        HuggingFace(path=tmp_path / "set").load()


def test_needs_a_name():
    with pytest.raises(DataError, match=r"needs data\.dataset \(a name on the hub\) or data\.path"):
        HuggingFace().load()


def test_offline_says_the_ways_out(monkeypatch):
    def unreachable(*_args):
        raise ConnectionError("Couldn't reach 'some/photos' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr("datasets.load_dataset", unreachable)

    with pytest.raises(DataError, match=r"'some/photos' cannot be loaded .*Couldn't reach.*save_to_disk"):
        HuggingFace(dataset="some/photos").load()


def test_a_folder_that_was_not_saved_whole(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match=r"^data\.path: .*cannot be loaded .*; save it again with save_to_disk$"):
        HuggingFace(path=tmp_path / "set").load()
