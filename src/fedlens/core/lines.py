"""Lines for a terminal: folded between words, never inside one, so that a path or a key can be copied whole."""

from __future__ import annotations

import textwrap


def folded(text: str, width: int, hang: int = 0) -> str:
    """`text` in lines of at most `width` columns where words allow it. Every line of `text` is folded by itself; what
    does not fit goes on below, indented like the line itself and by `hang` columns more."""
    return "\n".join(_fold(line, width, hang) for line in text.split("\n"))


def _fold(line: str, width: int, hang: int) -> str:
    indent = len(line) - len(line.lstrip()) + hang
    indent = min(indent, width // 2)
    pieces = textwrap.wrap(
        line,
        max(width, 1),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )
    return "\n".join(pieces)
