"""Images and their nearest texts on the page of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.fake_runs import write_run

from fedlens.core.files import write_json
from fedlens.errors import FedLensError
from fedlens.reports.html import write_report

PICTURE = "data:image/png;base64,AAAA"


def near(place: int, text: str, label: str, own: bool = False) -> dict[str, Any]:
    return {"place": place, "similarity": 0.5, "text": text, "class": label, "own": own}


def page(folder: Path, *nearest: dict[str, Any], image: str = PICTURE) -> str:
    run = write_run(folder)
    pictures = [{"image": image, "class": "cat", "nearest": list(nearest)}]
    write_json(run.nearest_texts, {"tested": 5, "texts": 4, "pictures": pictures})
    return write_report(run.path).read_text(encoding="utf-8")


def test_a_page_marks_its_own_text_and_says_at_which_place_it_is(tmp_path: Path) -> None:
    shown = page(tmp_path, near(1, "a sofa", "dog"), near(2, "a kitten", "cat"), near(1027, "猫 🐈", "cat", own=True))
    section = re.search(r'<div class="texts">.*?</ol>', shown, re.S)
    assert section
    assert f'src="{PICTURE}"' in section[0]
    places = re.findall(r'<li value="(\d+)"( class="own")?><span dir="auto">(.*?)</span>', section[0])
    assert places == [("1", "", "a sofa"), ("2", "", "a kitten"), ("1027", ' class="own"', "猫 🐈")]
    under = [re.sub("<.*?>", "", words) for words in re.findall(r"<small>(.*?)</small>", section[0])]
    assert under == ["0.500 · dog", "0.500 · same class", "0.500 · its own text"]


def test_a_text_is_no_markup(tmp_path: Path) -> None:
    bad = "<script>window.broken=1</script>"
    assert '<span dir="auto">&lt;script&gt;window.broken=1' in page(tmp_path, near(1, bad, bad))
    assert "<script>window.broken" not in page(tmp_path / "again", near(1, bad, bad), near(2, bad, bad, own=True))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedLensError, match=r"nearest-texts\.json"):
        page(tmp_path, near(1, "a", "b"), image="https://elsewhere/a.png")
