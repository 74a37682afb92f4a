"""The command line as a whole: help, versions, errors, exit statuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from fedlens.cli.blocks import describe, example
from fedlens.cli.main import app, complain
from fedlens.config.blocks import ALGORITHM, FAMILIES
from fedlens.errors import ConfigError, DataError, Problem

COMMANDS = (
    "run",
    "resume",
    "compare",
    "sweep",
    "data",
    "models",
    "strategies",
    "predict",
    "search",
    "config",
    "server",
    "client",
    "certs",
    "doctor",
    "health",
)


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_help_lists_the_commands_and_imports_nothing_heavy():
    """And Python is told to look rarely for unused objects (`core.heap`)."""
    code = (
        "import gc, sys\n"
        "from fedlens.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'yaml', 'rich', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert gc.get_threshold()[0] > 10_000\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f"  {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def every_command(command, *names):
    yield names
    for name, inner in getattr(command, "commands", {}).items():
        yield from every_command(inner, *names, name)


def test_help_has_no_markup_of_another_reader():
    helps = {names: invoke(*names, "--help").stdout for names in every_command(typer.main.get_command(app))}
    assert "[required]" in helps["resume",]
    assert not [names for names, text in helps.items() if "\\[" in text]


def test_errors_on_a_terminal_are_folded_between_words(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    complain("config.yaml: a long line with a/path/that-stays-whole-however-long-it-is in it")
    assert typer.unstyle(capsys.readouterr().err).splitlines() == [
        "config.yaml: a long line with",
        "  a/path/that-stays-whole-however-long-it-is",
        "  in it",
    ]


def test_version():
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("fedlens ")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError(Problem("missing", "a", "one"), Problem("missing", "b", "two")), 2),
        (DataError("one\ntwo"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_are_lines_on_stderr_and_an_exit_status(monkeypatch, error, status):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr("fedlens.build.load.load", fail)
    result = invoke("config", "show")
    assert result.exit_code == status
    assert result.stdout == ""
    assert result.stderr == ("Interrupted.\n" if status == 130 else "one\ntwo\n")


@pytest.mark.parametrize(
    "arguments", [("--debug", "config", "show", "bogus=1"), ("config", "show", "bogus=1", "--debug")]
)
def test_debug_lets_the_error_through_for_its_traceback(arguments):
    assert isinstance(invoke(*arguments).exception, ConfigError)


def test_strategies_lists_names_and_summaries_on_a_screen():
    result = invoke("strategies")
    assert result.exit_code == 0
    for family in ALGORITHM:
        assert family.section in result.stdout
        for entry in family.registry.entries():
            assert f"  {entry.name} " in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_one_strategy_has_its_keys_its_paper_and_an_example_that_works():
    text = invoke("strategies", "fedprox").stdout
    assert "strategy.mu  a number of at least 0; default: 0.01" in text
    assert "https://arxiv.org/abs/1812.06127" in text
    assert "  fedlens run strategy.name=fedprox strategy.mu=0.01" in text
    assert "personalization.name=fedper" in invoke("strategies", "fedper").stdout
    unknown = invoke("strategies", "fedprx")
    assert unknown.exit_code == 2
    assert "fedprx: there is nothing of that name. Did you mean fedprox?" in unknown.stderr


@pytest.mark.parametrize(
    ("family", "entry"),
    [(family, entry) for family in FAMILIES.values() for entry in family.registry.entries()],
    ids=lambda one: getattr(one, "name", getattr(one, "section", "")),
)
def test_every_blocks_description_is_whole(family, entry, capsys):
    describe([family], entry.name)
    text = capsys.readouterr().out
    assert example(family, entry).split()[2] in text
    assert "From: " in text


def test_config_show_prints_a_configuration_that_loads_again(tmp_path):
    result = invoke("config", "show", "strategy.name=fedprox", "federated.num_rounds=3")
    path = tmp_path / "again.yaml"
    path.write_text(result.stdout)
    assert invoke("config", "show", str(path)).stdout == result.stdout
    assert "num_rounds: 3" in result.stdout


def test_config_schema_writes_a_file(tmp_path):
    result = invoke("config", "schema", "--out", str(tmp_path / "s.json"))
    assert result.exit_code == 0
    assert (tmp_path / "s.json").read_text() == invoke("config", "schema").stdout
