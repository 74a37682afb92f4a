"""Markdown of texts that anybody may have written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fedlens.core import clean

_SIGNS = re.compile(r"([\\`*_\[\]|~$])")
"""What Markdown reads inside a line: emphasis, code, links, pictures, cells, formulas. Signs that count only at the
beginning of a line are left, because no text of others begins one."""


def escape(text: str) -> str:
    """`text` on one line, of which a reader of Markdown shows every character."""
    return _SIGNS.sub(r"\\\1", clean.escape(clean.line(text), quote=False))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts."""
    lines = [[*map(escape, head)], ["---"] * len(head), *([*map(escape, row)] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(texts: Iterable[str]) -> str:
    """A list of plain texts."""
    return "\n".join(f"- {escape(text)}" for text in texts)
