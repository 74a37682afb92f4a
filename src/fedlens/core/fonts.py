"""Fonts for the pictures that matplotlib draws: its own has no Chinese, Japanese or Korean."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Sans CJK KR"),  # Linux
    *("Noto Sans SC", "Noto Sans TC", "Noto Sans JP", "Noto Sans KR"),
    *("Source Han Sans SC", "Source Han Sans CN", "Source Han Sans", "Source Han Sans TC", "Source Han Sans KR"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("PingFang SC", "Hiragino Sans", "Heiti TC", "STHeiti", "Apple SD Gothic Neo", "Arial Unicode MS"),  # macOS
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic"),  # Windows
    *("Noto Sans", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai", "Noto Emoji", "Unifont"),
)
"""Families that are looked for, in this order, when matplotlib's own font lacks a character."""

_PLAIN = "\u0250"
"""matplotlib's own font has every letter before this one."""

_MOST_SHOWN = 5


@dataclass(frozen=True)
class Lettering:
    """families: fonts to be tried one after another for each character; missing: characters that none of them has."""

    families: tuple[str, ...]
    missing: frozenset[str]

    def plain(self, text: str) -> str:
        """`text` with U+FFFD in place of what cannot be drawn."""
        return "".join("\ufffd" if character in self.missing else character for character in text)


def lettering(texts: Iterable[str]) -> Lettering:
    """The fonts that are needed to draw `texts`, of those that are installed."""
    return _found(frozenset("".join(texts)) - {"\n"})


def missing_note(texts: Iterable[str]) -> str | None:
    """What to say when some of `texts` cannot be drawn; None when all can, which plain letters need no look for."""
    unusual = frozenset(character for character in "".join(texts) if character >= _PLAIN)
    missing = sorted(lettering(unusual).missing) if unusual else []
    if not missing:
        return None
    more = ", …" if len(missing) > _MOST_SHOWN else ""
    return (
        f"no installed font has {', '.join(missing[:_MOST_SHOWN])}{more}: pictures show \ufffd instead. "
        "Install one (Debian, Ubuntu: fonts-noto-cjk)"
    )


@cache
def _found(characters: frozenset[str]) -> Lettering:
    from matplotlib import rcParams

    # a font without a normal weight is good enough; the warning would not help users
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    own = tuple(rcParams["font.family"])
    found = _covering(own, characters, own)
    if found.missing:
        found = _covering(own, characters, (*own, *FALLBACKS))
    if found.missing and _add_new_fonts():
        found = _covering(own, characters, (*own, *FALLBACKS))
    return found


def _covering(own: tuple[str, ...], characters: frozenset[str], families: Iterable[str]) -> Lettering:
    """Of `families`, those that have some of the `characters` which the ones before them lack."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    installed, used = {font.name for font in fontManager.ttflist}, list(own)
    for family in families:
        if characters and (family in own or family in installed):
            font = get_font(findfont(FontProperties(family=[family])))
            covered = characters & {chr(code) for code in font.get_charmap()}
            characters -= covered
            used += [family] if covered and family not in own else []
    return Lettering(tuple(used), characters)


def _add_new_fonts() -> bool:
    """Add fonts to matplotlib's list that were installed after it was made; True when there are any."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    new = set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}
    added = False
    for path in sorted(new):
        try:
            fontManager.addfont(path)
            added = True
        except (OSError, RuntimeError, ValueError):  # formats that matplotlib cannot read
            continue
    return added
