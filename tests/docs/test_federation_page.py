"""The three lines of the quick start between machines, as the pages print them, in three processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.snippets import ROOT, blocks
from tests.flower.processes import command

LIMIT = 500


def printed(page: Path) -> list[list[str]]:
    """The block of three commands."""
    (block,) = [block for block in blocks(page) if "three terminals" in block.mark]
    return block.commands


def test_all_pages_print_the_same_lines() -> None:
    pages = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "docs" / "deployment.md"]
    lines = [printed(page) for page in pages]
    assert lines[0] == lines[1] == lines[2]
    assert [words[:2] for words in lines[0]] == [["python", f"{name}.py"] for name in ("server", "client", "client")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_three_lines_run_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word, but for the number of rounds and the port, which other work on this machine may hold; with fewer
    images than the sample that the page makes."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    command("data", "sample", "--clients", "2", "--images", "20", "--out", str(tmp_path / "data"))
    logs = []
    started = []
    for number, (_, script, *printed_words) in enumerate(printed(ROOT / "docs" / "deployment.md")):
        words = [word.replace("8080", "18080") for word in printed_words]
        if script == "server.py":
            words[words.index("--num_rounds") + 1] = "1"
            words += ["--server_address", "0.0.0.0:18080"]
        logs.append(tmp_path / f"{number}.log")
        with logs[-1].open("wb") as log:
            line = [sys.executable, str(ROOT / script), *words]
            started.append(subprocess.Popen(line, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(LIMIT) for process in started]
    finally:
        for process in started:
            process.kill()
    said = [log.read_text(encoding="utf-8") for log in logs]
    assert codes == [0, 0, 0], "\n".join(said)
    assert "round 1/1" in said[0]
    assert "client1 is here: 16 training images" in said[0]
    assert "the run is over: all its rounds are done (1)" in said[1]
    assert "client1" not in said[2]  # no client sees another's anything
    (run,) = (tmp_path / "logs").iterdir()
    assert (run / "report.html").exists() and (run / "model").is_dir()
