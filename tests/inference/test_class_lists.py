"""Lists of classes from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.problems import refuses

from fedlens.errors import Code
from fedlens.inference import class_lists
from fedlens.inference.class_lists import asked_classes, checked_classes


def test_names_stand_between_commas() -> None:
    assert checked_classes(asked_classes("sneaker, striped shirt ,包")) == ("sneaker", "striped shirt", "包")


def test_a_file_has_a_name_on_each_line(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("\ufeffsneaker\r\n\r\nshirt, striped\n包\n".encode())
    assert checked_classes(asked_classes(f"@{tmp_path / 'names.txt'}")) == ("sneaker", "shirt, striped", "包")


def test_names_are_compared_as_class_names_are() -> None:
    """Unicode's composed form: é is written as one code point or as two."""
    assert checked_classes(["caf\u0065\u0301"]) == ("caf\u00e9",)
    with refuses(("duplicate", "--classes")):
        checked_classes(["caf\u00e9", "cafe\u0301"])


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ("", "missing", "there is no name"),
        (" ", "missing", "there is no name"),
        ("a,,b", "invalid_value", "name 2 is empty"),
        ("a,b,", "invalid_value", "name 3 is empty"),
        ("bag,shoe, bag", "duplicate", "bag is given twice, as names 1 and 3"),
        ("a,b\x1b[2Jc", "invalid_value", r"name 2, b\x1b[2Jc, has control characters"),
        ("a,b\u202ec", "invalid_value", "has control characters"),
        ("a" * 501, "out_of_range", "name 1 has 501 characters; give it 500 at most"),
        ("@gone.txt", "unreadable", "gone.txt cannot be read"),
        ("@.", "unreadable", "cannot be read"),
        ("@empty.txt", "missing", "there is no name"),
        ("@latin.txt", "unreadable", "latin.txt is no text in UTF-8"),
    ],
)
@pytest.mark.usefixtures("in_an_empty_folder")
def test_what_is_refused(asked: str, code: Code, said: str) -> None:
    Path("empty.txt").write_text("\n \n", encoding="utf-8")
    Path("latin.txt").write_bytes("Möbel".encode("latin-1"))
    with refuses((code, "--classes")) as caught:
        checked_classes(asked_classes(asked))
    assert str(caught.value).startswith("--classes: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_lists, "MOST_CLASSES", 3)
    with refuses(("out_of_range", "--classes")):
        checked_classes(["a", "b", "c", "d"])
    assert len(checked_classes(["a", "b", "c"])) == 3
