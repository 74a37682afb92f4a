"""Text from outside: what terminals obey is replaced, what people write stays."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from fedlens.core import clean

UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07gone", "�[2J�]0;title�gone"),  # clears the screen, sets the title
        ("\x9b31mred", "�31mred"),  # the one-character form of ESC [
        ("photo\u202egpj.exe", "photo�gpj.exe"),  # would be shown as photoexe.jpg
        ("a\u2066b\u200fc\ufeff", "a�b�c�"),
        ("one\ntwo\r\n\tthree", "one two three"),
        ("one\u2028two\u0085three\x0bfour", "one two three four"),
        ("\ud800", "�"),  # a lone surrogate cannot be written as UTF-8
        ("  北京医院  é ñ 🙂 ", "北京医院 é ñ 🙂"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian needs the joiner
        ("", ""),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    assert clean.line(text) == shown


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cat\ufeff", "cat"),
        ("c\xadat", "cat"),
        ("big\n\tcat", "big cat"),
        ("\x1b[2J\u202ecat", "[2Jcat"),
        ("a  b", "a  b"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\ud800", "\ud800"),  # a byte that is no text: whoever reads it has to say so
        ("\u200b", "�"),
        ("", ""),
    ],
)
def test_a_name(text: str, name: str) -> None:
    assert clean.name(text) == name


def test_text_for_a_page() -> None:
    assert clean.escape('<b>\x1b\u202e\n"') == "&lt;b&gt;��\n&quot;"
    assert clean.escape('"', quote=False) == '"'


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("cat", True),
        (" 北京  ", True),
        ("a\tb", False),
        ("a\n", False),
        ("\x7f", False),
        ("\u2029", False),
        ("\u202e", False),
    ],
)
def test_what_can_be_shown_as_it_is(text: str, good: bool) -> None:
    assert clean.is_clean(text) is good


@pytest.mark.parametrize("length", [9, 10, 11, 39, 40, 41, 5_000_000])
def test_a_line_has_a_longest_length(length: int) -> None:
    shown = clean.line("x" * length, longest=10)
    assert shown == ("x" * length if length <= 10 else "x" * 9 + "…")


def test_a_cut_hides_no_missing_text() -> None:
    """White space that is taken out must not make a text look whole that was cut."""
    assert clean.line("a" + " " * 100 + "b", longest=10) == "a…"


def test_a_block_keeps_lines_and_columns() -> None:
    assert clean.block("a   b\nc\td\x1b[2J\r\n") == "a   b\nc   d�[2J�\n"


class Named(BaseModel):
    name: str = Field(pattern=clean.NAME, max_length=clean.LONGEST_NAME)


@pytest.mark.parametrize(
    "name",
    [*("client1", "北京医院", "Site A", "Klinik Köln (Süd)", "हिन्दी", "a", "7", "St. Mary's, ward 3", "n@h.org")],
)
def test_names_of_clients(name: str) -> None:
    assert Named(name=name).name == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            "../../pwned",
            "a/b",
            "a\\b",
            "a\n",
            "\na",
            " a",
            "a ",
            "a.",
            "-a",
            ".a",
            "a\x1b[2J",
            "a\u202eb",
        )
    ],
)
def test_no_names_of_clients(name: str) -> None:
    with pytest.raises(ValidationError):
        Named(name=name)


def unsafe(text: str) -> set[str]:
    """Characters that no terminal should get."""
    return {character for character in text if unicodedata.category(character) in UNSAFE} - set("\u200c\u200d")


@pytest.mark.fuzz
@given(st.text(st.characters(), max_size=60), st.integers(2, 30))
def test_any_text(text: str, longest: int) -> None:
    shown = clean.line(text, longest)
    assert not unsafe(shown)
    assert len(shown) <= longest
    assert clean.line(shown, longest) == shown
    assert unsafe(clean.block(text)) <= {"\n"}
