"""`fedlens new`: what it writes works as it is, and nothing is overwritten."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.commands import command, refused_in_one_line

from fedlens.build.load import load
from fedlens.cli.new import Kind
from fedlens.config.blocks import FAMILIES

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", Kind)
def test_three_files_with_the_name_in_all_places(kind: Kind) -> None:
    result = command(f"new {kind} bright_idea")
    assert result.exit_code == 0, result.output
    folder = Path("bright_idea")
    assert files(folder) == ["bright_idea.py", "config.yaml", "test_bright_idea.py"]
    for file in folder.iterdir():
        assert not re.search("my_name|MyName", file.read_text()), file
    for file in folder.glob("*.py"):
        ast.parse(file.read_text())
    assert result.stdout.splitlines()[-3:-1] == [
        "  cd bright_idea",
        "  python bright_idea.py" if kind is Kind.EXPERIMENT else "  fedlens run config.yaml",
    ]


@pytest.mark.parametrize("kind", [Kind.STRATEGY, Kind.MODEL, Kind.SOURCE])
def test_the_configuration_uses_the_block(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES["data" if kind is Kind.SOURCE else kind.value]
    family.registry.names()
    monkeypatch.setattr(family.registry, "_entries", dict(family.registry._entries))
    assert command(f"new {kind} bright_{kind} --in here").exit_code == 0
    monkeypatch.chdir("here")
    chosen = family.choose(getattr(load(Path("config.yaml")), family.section))
    assert type(chosen).__name__ == f"Bright{kind.capitalize()}"


def test_nothing_is_overwritten() -> None:
    assert command("new strategy bright --in here").exit_code == 0
    (Path("here") / "bright.py").write_text("mine")
    (Path("here") / "config.yaml").unlink()
    refused_in_one_line("new strategy bright --in here", "here/bright.py, here/test_bright.py: there already")
    assert files(Path("here")) == ["bright.py", "test_bright.py"]
    assert (Path("here") / "bright.py").read_text() == "mine"


@pytest.mark.parametrize("name", ["a-b", "'a b'", "class", "../up", "1st", "Mine", "größe", "''"])
def test_what_is_no_name_in_python_is_refused(name: str) -> None:
    refused_in_one_line(f"new model {name}", "is no name for Python code")
    assert not list(Path().iterdir())


def test_a_name_that_is_taken_is_refused() -> None:
    refused_in_one_line("new strategy fedavg", "fedavg is a strategy of FedLens already")
    refused_in_one_line("new strategy lenet", "lenet is a model of FedLens already")
    assert not list(Path().iterdir())


def test_a_place_that_is_a_file_is_refused() -> None:
    Path("file").write_text("")
    refused_in_one_line("new strategy bright --in file/below", "file/below: cannot be written")


def by_pytest(*arguments: str) -> str:
    """What pytest says in a process of its own."""
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(line, check=False, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_the_tests_that_it_writes_pass() -> None:
    for kind in Kind:
        assert command(f"new {kind} bright_{kind}").exit_code == 0
    said = by_pytest(*map(str, Path().glob("*/test_*.py")))
    assert re.search(r"^14 passed", said, re.MULTILINE), said


@pytest.mark.slow
def test_the_test_of_a_strategy_fails_where_the_strategy_does_nothing() -> None:
    assert command("new strategy bright").exit_code == 0
    file = Path("bright/bright.py")
    file.write_text(file.read_text().replace("self.pull * (", "0 * ("))
    said = by_pytest("bright", "-k", "fedavg")
    assert "1 failed" in said, said
