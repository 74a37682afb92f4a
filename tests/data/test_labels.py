"""What may be a label, and which names are one class."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from fedlens.data.labels import (
    FRACTION,
    NO_LABEL,
    SEVERAL,
    check_held_out,
    class_notes,
    label_faults,
    label_texts,
    spelling_notes,
)
from fedlens.errors import DataError

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["cat ", DECOMPOSED], ["cat", COMPOSED]),
        ([1, 2], ["1", "2"]),
        ([1.0, float("nan"), 2.0], ["1", "", "2"]),
        (["1.0", "2", ""], ["1", "2", ""]),
        (["1.0", "beta"], ["1.0", "beta"]),
        (["007", "7"], ["007", "7"]),
        ([None, True], ["", "True"]),
        ([np.int64(3), np.float32(4)], ["3", "4"]),
    ],
)
def test_labels_are_names(values, texts):
    assert label_texts(values) == texts


@pytest.mark.parametrize(
    ("values", "faults"),
    [
        (["cat", "dog, golden retriever", "dog, poodle"], {}),
        (["T-shirt; top", "bag"], {}),
        (["cup", "cup|x", "fork"], {SEVERAL: [1]}),
        (["a|b", "a|c", "d"], {SEVERAL: [0, 1]}),
        (["a;b", "b"], {SEVERAL: [0]}),
        (["a", "b", "a, b"], {SEVERAL: [2]}),
        ([[0, 1], [1], 0], {SEVERAL: [0, 1]}),
        ([np.array([0, 1]), {"cat": 1}, "cat"], {SEVERAL: [0, 1]}),
        (["cat", "NaN", "<NA>", None, "N/A", "null", " "], {NO_LABEL: [1, 2, 3, 4, 5, 6]}),
        ([0, 1, 0.5], {FRACTION: [2]}),
        (["0", "1.5", "nan"], {FRACTION: [1], NO_LABEL: [2]}),
        (["1", "inf"], {}),  # not a number but a name
        (["version 1.5", "1.5"], {}),
        (["['cat']", "['cat', 'dog']", "[1, 2]", "{'cat': 1}", "[other]"], {SEVERAL: [0, 1, 2, 3]}),
        (["-1", "+1"], {}),
    ],
)
def test_what_is_no_label(values, faults):
    assert label_faults(label_texts(values)) == faults


@pytest.mark.parametrize(
    ("names", "notes"),
    [
        (["Cat", "cat", "dog"], 1),
        (["ice cream", "icecream", "Ice-Cream"], 1),
        (["cat", "cat "], 1),
        (["C", "C-", "A+", "A"], 0),
        (["-1", "1", "1-2", "12"], 0),
        (["none", "defect"], 1),
        (["?", "defect"], 1),
        (["ｃat", "cat"], 1),  # full width
    ],
)
def test_names_that_are_probably_one(names, notes):
    assert len(class_notes(names)) == notes


def test_notes_name_the_classes():
    assert class_notes(["dog", "cat", "Cat"]) == (
        "the classes 'Cat' and 'cat' differ in case, spaces or Unicode form only: two names of one class? "
        "Rename one if so",
    )
    assert spelling_notes([COMPOSED, DECOMPOSED, "cat"]) == (
        f"the class '{COMPOSED}' is written in 2 Unicode forms: read as one class",
    )


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_held_out_class_that_nobody_can_learn(part):
    labels, split = np.array([0, 1, 2]), np.array(["train", "train", part])
    with pytest.raises(DataError, match=r"images of 'Cat', and no training image .*'Cat' is probably 'cat'"):
        check_held_out(labels, ["cat", "dog", "Cat"], split)
    check_held_out(np.array([0, 1, 1]), ["cat", "dog", "Cat"], split)
    check_held_out(labels, ["cat", "dog", "Cat"], None)
