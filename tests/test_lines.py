"""Folding lines for a terminal."""

from __future__ import annotations

import pytest

from fedlens.core.lines import folded


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("short", 80, "short"),
        ("", 80, ""),
        ("one two three", 8, "one two\nthree"),
        ("  one two three", 9, "  one two\n  three"),  # indented like its first line
        ("a/very/long-path here", 5, "a/very/long-path\nhere"),  # a word is never broken, also not at a hyphen
        ("one\ntwo", 80, "one\ntwo"),
        ("a  b", 80, "a  b"),  # a table's spaces stay
    ],
)
def test_folded_between_words(text, width, expected):
    assert folded(text, width) == expected


def test_what_does_not_fit_hangs():
    assert folded("name  value of some words that go on", 30, hang=6) == "name  value of some words that\n      go on"
