"""`fedlens doctor --config config.yaml`: what it prints and writes. Most measurements here are made up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fedlens.cli.main import app
from fedlens.config.schema import Config
from fedlens.measuring import advice
from fedlens.measuring.measurement import Measurement

FILE = """\
# mine
model: {name: lenet}
memory:  # as it fits
  precision: fp32
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without channels_last a round takes a second, otherwise two; 1.5 GB."""

    def measure(config: Config, **_: Any) -> Measurement:
        found = Measurement(memory=1_500_000_000)
        for number in range(4):
            found.take("round", number * (3.0 if config.memory.channels_last else 2.0), 1.0, 1.0, number % 2 == 1, 0)
        return found

    monkeypatch.setattr(advice, "measure", measure)
    monkeypatch.setattr(advice, "LOOK_AROUND", 0.01)


def invoked(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", "--config", *map(str, arguments)])


def doctor(*arguments: object) -> Result:
    result = invoked(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: object) -> str:
    """The one line on standard error that ends the command, as its last."""
    result = invoked(*arguments)
    assert result.exit_code in (1, 2)
    return result.stderr.strip().splitlines()[-1]


def test_it_prints_measurements_the_lines_and_the_time_of_the_run(config: Path, measured: None) -> None:
    told = doctor(config, "federated.num_rounds=10").stdout
    assert "1.50 GB" in told
    assert "Use these lines:\n\nmemory:\n  channels_last: false\n" in told
    # 10 rounds of 1 s in place of 2 s; 10 evaluations of 1 s; the clients' own take no longer
    assert "about 20.0 s with them, in place of 30.0 s" in told
    assert "lenet has no blocks to compute again" in told
    assert config.read_text() == FILE


def test_apply_writes_the_lines_and_leaves_the_rest(config: Path, measured: None) -> None:
    assert "Written into" in doctor(config, "--apply").stdout
    assert config.read_text() == FILE + "  channels_last: false\n"
    assert "stays as it is" in doctor(config, "--apply").stdout  # the lines are there


def test_json_is_json_and_notes_go_elsewhere(config: Path, measured: None) -> None:
    result = doctor(config, "--json", "--apply")
    found = json.loads(result.stdout)
    assert found["use"] == {"memory.channels_last": False}
    assert found["measured"][0]["seconds"]["round"] == 2
    assert "measuring: as it is" in result.stderr


def test_a_file_that_is_changed_meanwhile_is_left_alone(
    config: Path, measured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure: Callable[..., Measurement] = advice.measure

    def edited(*given: Any, **named: Any) -> Measurement:
        config.write_text("seed: 7\n")
        return measure(*given, **named)

    monkeypatch.setattr(advice, "measure", edited)
    assert "has changed while it was measured" in refused(config, "--apply")
    assert config.read_text() == "seed: 7\n"


def test_where_nothing_works_it_says_why(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "measure", lambda *_, **__: Measurement(failure="the machine's memory is full"))
    assert "no measurement has worked: the machine's memory is full" in refused(config, "--apply")
    assert config.read_text() == FILE


@pytest.mark.parametrize(
    ("text", "arguments", "line"),
    [
        (FILE, ("--certs", "x"), r"--certs: .* is the configuration of a run"),
        (FILE, ("--server",), "--server: "),
        ("partition_id: 1\n", ("--apply",), "--apply: needs --config with the configuration of a run"),
        (FILE, ("memory.precison=bf16",), r"memory\.precison.*precision"),
        ("model: {name: lenett}\n", (), "lenett.*lenet"),
        (FILE, ("data.source=imagefolder", "data.path=nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_one_line(config: Path, text: str, arguments: tuple[str, ...], line: str) -> None:
    config.write_text(text)
    assert re.search(line, refused(config, *arguments))
    assert config.read_text() == text


@pytest.mark.slow
def test_real_measurements_of_a_small_run(config: Path) -> None:
    found = json.loads(doctor(config, "--json", "--seconds", "30", "federated.local_epochs=1").stdout)
    first = found["measured"][0]
    assert first["failure"] is None
    assert first["seconds"]["run"] > 0 and first["memory"] > 50e6
    assert found["use"] is not None
