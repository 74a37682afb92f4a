"""Texts in a table: in one form, joined where a file has several, and refused where they are too long.

Texts are private: no message shows one. Rows are named by their lines.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from fedlens.data.labels import MISSING
from fedlens.data.tables import Table

LONGEST = 100_000
"""Maximum characters of a row's text: about 40 pages. Models read far less; more is a mistake in the table."""

_CONTROL = str.maketrans(dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " "))
"""Control characters (Unicode category Cc), line breaks among them, to spaces."""


def normalized_text(text: str) -> str:
    """`text` on one line, in Unicode's composed form (NFC), control characters and runs of white space being one space;
    "" for what programs write in place of a missing text ("nan")."""
    plain = " ".join(unicodedata.normalize("NFC", text.translate(_CONTROL)).split())
    return "" if plain.casefold() in MISSING else plain


def joined(texts: Iterable[str]) -> str:
    """The different ones of `texts` in their order, on one line."""
    return " ".join(text for text in dict.fromkeys(texts) if text)


def check_lengths(table: Table) -> None:
    """Look for texts that are too long.

    Raises:
        DataError: there are some; it names their lines.
    """
    if bad := [row for row, text in enumerate(table.columns.get("text", ())) if len(text) > LONGEST]:
        way_out = "Shorten them (all texts of one file count together)"
        raise table.refusal(None, bad, f"a text of more than {LONGEST:,} characters", way_out)
