"""Text from outside, made fit for terminals, log files, reports and file names.

Outside are other machines (names, reasons, versions), other people's files (folder and class names), and messages of
libraries that quote them. A terminal obeys control characters: they clear the screen or set its title. Characters that
set the direction of writing show a text as another one (https://www.unicode.org/reports/tr36/, section 2.5).
"""

from __future__ import annotations

import html
import unicodedata

LONGEST = 500
"""Characters of one text from outside, where nothing else is said."""

LONGEST_NAME = 100

NAME = r"^[\p{L}\p{N}](?:[\p{L}\p{M}\p{N} ._+@()#&,'=-]*[\p{L}\p{M}\p{N}_)])?$"
"""Pattern (of pydantic) of the name that a client gives itself. It names folders and curves, so it begins with a letter
or digit of any script, and holds no path."""

NAME_RULE = "letters (of any script), digits, spaces and . _ - + @ ( ) # & , ' =, a letter or digit first, 100 at most"

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories: control, format (direction of writing among them), surrogates, line and paragraph separators."""
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
"""Format characters that spelling needs, in Persian and in emoji."""


def line(text: str, longest: int = LONGEST) -> str:
    """`text` as one line of at most `longest` characters.

    White space becomes single spaces, any other character that is not shown becomes U+FFFD. What is cut off is marked
    by "…".
    """
    shown = _shown(" ".join(text[: 4 * longest].split()))
    cut = len(shown) > longest or len(text) > 4 * longest
    return shown[: longest - 1].rstrip() + "…" if cut else shown


def block(text: str) -> str:
    """`text` with its line breaks and columns; any other character that is not shown becomes U+FFFD.

    For texts of our own that quote others, as the last step before a terminal.
    """
    return "\n".join(_shown(part.expandtabs(4)) for part in text.split("\n"))


def escape(text: str, quote: bool = True) -> str:
    """`text` for an HTML page: as `block`, and with nothing that a browser reads as markup. `quote`: nor as the end of
    an attribute."""
    return html.escape(block(text), quote)


def name(text: str) -> str:
    """`text` as a name on one line, without the characters that are not shown.

    They are left out and not replaced, so that a name with a byte order mark or a soft hyphen is the same name without.
    A name of nothing else becomes U+FFFD. Surrogates stay: they are bytes of a file name that is no text.
    """
    if text.isprintable():
        return text
    kept = "".join(sign for sign in " ".join(text.split()) if not _is_hidden(sign) or "\ud800" <= sign <= "\udfff")
    return kept or _REPLACEMENT


def is_clean(text: str) -> bool:
    """Whether all of `text` can be shown: for names that must not change, such as those of classes."""
    return _shown(text) == text


def _shown(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(_REPLACEMENT if _is_hidden(character) else character for character in text)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN and character not in _JOINERS
