"""Display names: files of the user, and those that ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.problems import refuses

from fedlens.data.display_names import display_names
from fedlens.data.sources.fashion_mnist import CLASS_NAMES

CLASSES = ("cup", "fork", "caf\u00e9")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "names.json"


def test_a_file_names_some_classes_and_the_others_keep_their_names(file: Path) -> None:
    file.write_text(json.dumps({"cup": " 杯子 ", "cafe\u0301": "cup"}), encoding="utf-8-sig")
    assert display_names(str(file), CLASSES) == {"cup": "杯子", "fork": "fork", "caf\u00e9": "cup"}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_shipped_languages_name_every_class_of_the_sample_differently(language: str) -> None:
    shown = display_names(language, CLASS_NAMES)
    assert list(shown) == list(CLASS_NAMES)
    assert len(set(shown.values())) == 10
    assert all(shown.values())
    assert display_names(language, CLASS_NAMES[3:5]) == {name: shown[name] for name in CLASS_NAMES[3:5]}


def test_chinese_names_are_chinese() -> None:
    assert display_names("zh", CLASS_NAMES)["Ankle boot"] == "短靴"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('{"cup": "a",}', "unreadable", 'no JSON in UTF-8 of the form {"class": "name"} (Expecting property name'),
        ('{"cup": "\udcff"}', "unreadable", 'no JSON in UTF-8 of the form {"class": "name"} ('),
        ("[" * 100_000, "unreadable", 'no JSON in UTF-8 of the form {"class": "name"} ('),
        ('["cup"]', "wrong_type", 'it must hold an object, {"class": "display name"}'),
        ('{"cup": 3, "fork": null}', "wrong_type", "the display name of cup, fork is no text; put it in quotes"),
        ('{"Fork": "Gabel"}', "unknown_name", "no class of the model: Fork; did you mean fork?"),
        ('{"x": "1", "y": "2"}', "unknown_name", "no class of the model: x, y; its classes are cup, fork, café"),
        (
            '{"fork": " \\u200b"}',
            "invalid_value",
            "the display name of fork is empty; leave the class out to keep its name",
        ),
        ('{"cup": "A", "fork": "A"}', "duplicate", "A is shown for cup, fork; give each its own name"),
        ('{"cup": "fork"}', "duplicate", "fork is shown for cup, fork; give each its own name"),
        ('{"café": "a", "cafe\u0301": "b"}', "duplicate", "café: given twice; keep one of them"),
    ],
)
def test_a_file_that_does_not_fit_is_one_clear_line(file: Path, text: str, code: str, words: str) -> None:
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    with refuses((code, "--names")) as caught:
        display_names(str(file), CLASSES)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"--names {file}: {words}")


def test_every_kind_of_mistake_is_a_line(file: Path) -> None:
    file.write_text(json.dumps({"cup": "", "spoon": "x"}), encoding="utf-8")
    with refuses(("invalid_value", "--names"), ("unknown_name", "--names")):
        display_names(str(file), CLASSES)


def test_names_that_are_no_file(tmp_path: Path) -> None:
    with refuses(("not_found", "--names")) as caught:
        display_names("fr", CLASSES)
    assert str(caught.value) == "--names fr: no such file, and no language that ships; these do: en, zh"
    with refuses(("unreadable", "--names")) as caught:
        display_names(str(tmp_path), CLASSES)
    assert str(caught.value) == f"--names {tmp_path}: cannot be read (Is a directory)"


def test_a_key_of_the_configuration_is_named_as_such() -> None:
    with refuses(("not_found", "tracking.names")) as caught:
        display_names("fr", CLASSES, "tracking.names")
    assert str(caught.value).startswith("tracking.names=fr: no such file")


def test_the_home_of_nobody() -> None:
    with refuses(("unreadable", "--names")):
        display_names("~nobody-of-this-name/names.json", CLASSES)


def test_a_language_for_other_classes() -> None:
    with refuses(("incompatible", "--names")) as caught:
        display_names("zh", ("Coat", "cup"))
    assert str(caught.value) == (
        "--names zh: these names are for the classes of the sample, and the model has others: cup; give a JSON file, "
        '{"class": "display name"}'
    )


def test_two_outputs_of_one_name_are_no_mistake_of_the_file(file: Path) -> None:
    """ImageNet has two classes called crane."""
    file.write_text('{"cup": "杯子"}', encoding="utf-8")
    assert display_names(str(file), ("crane", "cup", "crane")) == {"crane": "crane", "cup": "杯子"}
