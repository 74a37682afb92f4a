"""Names in any script in the pictures. The characters are from the private planes: no system's font has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedlens.core import fonts
from fedlens.data.show import partition_figure
from fedlens.tracking.figures import confusion_figure, predictions_figure, to_image

DRAWN, UNKNOWN = "\U0010fff0", "\U0010fff1"


def make_font(path: Path, family: str) -> None:
    """A font with one glyph: a square for DRAWN."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "square"])
    font.setupCharacterMap({ord(DRAWN): "square"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": family, "styleName": "Regular", "psName": family.replace(" ", "")})
    font.setupOS2(usWeightClass=400)
    font.setupPost()
    font.save(path)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A font that was installed after matplotlib had made its list of fonts; gives its family."""
    from matplotlib import font_manager

    family = "Source Han Sans SC"
    make_font(tmp_path / "new.ttf", family)
    names = [font for font in font_manager.fontManager.ttflist if font.name != family]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", names)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "new.ttf")])
    fonts._found.cache_clear()
    yield family
    fonts._found.cache_clear()


def test_a_font_is_found_for_what_the_plain_one_lacks(installed: str) -> None:
    found = fonts.lettering(["cat", DRAWN])
    assert found.families[-1] == installed
    assert not found.missing
    assert fonts.lettering(["cat", "Müller", "кот"]).families == found.families[:-1]  # the plain one has them


def test_pictures_have_the_font(installed: str) -> None:
    """Each name is drawn (a glyph that is missing is a warning, and warnings are errors)."""
    one = np.eye(2, dtype=np.int64)
    for figure in (
        partition_figure(one, ["a", DRAWN], [DRAWN, "b"]),
        confusion_figure(one, [DRAWN, "b"]),
        predictions_figure(np.zeros((1, 4, 4, 1), np.uint8), [DRAWN], ["b"]),
    ):
        to_image(figure)
        texts = [text for axes in figure.axes for text in (axes.title, *axes.get_xticklabels())]
        assert any(DRAWN in text.get_text() and installed in text.get_fontfamily() for text in texts)


def test_without_a_font_a_sign_stands_for_the_character_and_a_note_says_so() -> None:
    figure = confusion_figure(np.eye(2, dtype=np.int64), [f"a{UNKNOWN}", "b"])
    to_image(figure)
    assert figure.axes[0].get_xticklabels()[0].get_text() == "a\ufffd"
    note = fonts.missing_note(["b", f"a{UNKNOWN}"])
    assert note is not None
    assert UNKNOWN in note
    assert "fonts-noto-cjk" in note
    assert fonts.missing_note(["b", "Müller"]) is None
