"""The pages agree with the code, with each other, and with a run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tests.docs.snippets import ROOT, Block, blocks, blocks_of, pages

from fedlens.cli.main import app

README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
TOLERANCE = 3.0
"""Percentage points around the README's figure: other processors and other numbers of workers add in another order."""


def reference():
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "tools" / "write_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def demo(page: Path) -> str:
    """What a page says of the demo."""
    (text,) = re.findall(r"<!-- demo -->(.*?)<!-- /demo -->", page.read_text(encoding="utf-8"), re.DOTALL)
    return text


def percentages(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+) %", text)]


def headings(text: str) -> list[int]:
    """The depths of a page's headings, in order, without what is inside code blocks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]


def table_rows(text: str) -> int:
    return len(re.findall(r"^\|", text, re.MULTILINE))


def test_the_reference_pages_are_what_the_code_says() -> None:
    assert not reference().stale(), "run tools/write_reference.py"


def test_both_readmes_have_the_same_structure() -> None:
    english, chinese = README.read_text(encoding="utf-8"), CHINESE.read_text(encoding="utf-8")
    assert headings(chinese) == headings(english)
    assert table_rows(chinese) == table_rows(english)
    shape = lambda page: [(block.language, block.mark, block.body) for block in blocks(page)]  # noqa: E731
    assert shape(CHINESE) == shape(README)
    assert percentages(demo(CHINESE)) == percentages(demo(README)) == percentages(demo(ROOT / "docs" / "quickstart.md"))


def test_a_translated_page_has_the_blocks_and_headings_of_the_english_one() -> None:
    for page in (ROOT / "docs").glob("*.zh-CN.md"):
        english = page.with_name(page.name.replace(".zh-CN", ""))
        told, translated = english.read_text(encoding="utf-8"), page.read_text(encoding="utf-8")
        assert headings(translated) == headings(told)
        assert [(one.mark, one.body) for one in blocks(page)] == [(one.mark, one.body) for one in blocks(english)]


def test_every_command_stands_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    known = {name for name, _ in reference().leaves(typer.main.get_command(app))}
    assert set(re.findall(r"^\| `(fedlens [a-z ]+)` \|", text, re.MULTILINE)) == known


def test_links_between_files_lead_somewhere() -> None:
    """mkdocs checks those within docs/; these are the README's and the like."""
    for page in (*pages(), CHINESE, ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_picture_is_a_small_real_one() -> None:
    picture = ROOT / "docs" / "images" / "report.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 300_000


def test_titles_name_files_once_a_page() -> None:
    for page in pages():
        titles = [block.title for block in blocks(page) if block.title]
        assert len(titles) == len(set(titles)), page


def test_a_block_is_recognised_with_mark_title_and_indent() -> None:
    yaml = '<!-- slow -->\n```yaml title="x.yaml"\nseed: 1\n```\n'
    bash = "- b\n\n  ```bash\n  fedlens run \\\n    seed=1  # c\n  ```\n"
    first, second = blocks_of(README, f"a\n{yaml}{bash}")
    assert first == Block(README, 3, "yaml", "x.yaml", "slow", "seed: 1\n")
    assert second.commands == [["fedlens", "run", "seed=1"]]


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link)[^>]*(?:src|href)=\"(https?://[^\"]+)", page.read_text(encoding="utf-8")
        )
        assert not loaded, page


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_reaches_what_the_readme_says(tmp_path: Path) -> None:
    import fedlens

    (stated,) = percentages(demo(README))
    run = fedlens.run(ROOT / "config.yaml", f"tracking.dir={tmp_path}", "tracking.tensorboard=false", show=False)
    (reached,) = 100 * fedlens.compare(run.folder)[["accuracy", "best_accuracy"]].to_numpy()
    assert reached == pytest.approx([stated, stated], abs=TOLERANCE)
