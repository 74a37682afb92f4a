"""The code blocks of README.md and docs/, and how the tests run them.

A page is run from top to bottom in a folder of its own that holds what a reader would have: config.yaml, PHOTOS (a
folder for each class), photo.jpg, and a finished run, which `latest` and `<run>` stand for.

    ```bash                   every line is a `fedlens` command, and must succeed
    ```yaml                   a configuration, and must be valid; with title="site.yaml", a site's;
                              "sweep.yaml", the points of a sweep
    ```python                 must run
    ``` with title="NAME"     is written to the file NAME (and checked as above when it is YAML)
    ```text, csv, ini, json   are shown only

`<!-- slow -->` before a block leaves it to the slow tests; `<!-- not run: REASON -->` leaves it out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("bash", "yaml", "python")
SHOWN = ("text", "csv", "ini", "json")

_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>slow|not run: [^>]+?) -->\n)?(?P<indent> *)```(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block. `mark`: "", "slow", or "not run: …"; `line`: where its fence stands."""

    page: Path
    line: int
    language: str
    title: str
    mark: str
    body: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return (self.language in RUN or bool(self.title)) and not self.mark.startswith("not run")

    @property
    def commands(self) -> list[list[str]]:
        """The lines of a bash block as arguments, without comments."""
        lines = self.body.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def pages() -> list[Path]:
    """README.md and every page of docs/ that is written by hand. Translations have the same blocks, as tests check."""
    found = sorted((ROOT / "docs").rglob("*.md"))
    written = [page for page in found if page.parent.name != "reference" and not page.name.endswith(".zh-CN.md")]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *written]


def blocks(page: Path) -> list[Block]:
    return list(blocks_of(page, page.read_text(encoding="utf-8")))


def blocks_of(page: Path, text: str) -> Iterator[Block]:
    for found in _FENCE.finditer(text):
        language, _, rest = found["info"].partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        line = text.count("\n", 0, found.start()) + 1 + bool(found["mark"])
        body = re.sub(f"^{found['indent']}", "", found["body"], flags=re.MULTILINE)
        yield Block(page, line, language, title[1] if title else "", found["mark"] or "", body)


def fences(page: Path) -> int:
    """How many fences open or close on a page: twice the number of blocks when the pattern above misses none."""
    return len(re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE))


def foreign(commands: Sequence[Sequence[str]]) -> list[str]:
    """Commands that the tests cannot run, and that need a mark."""
    return [shlex.join(words) for words in commands if words[0] != "fedlens"]
