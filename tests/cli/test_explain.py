"""`fedlens explain`, and what the end of a run and its report say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fake_runs import write_run
from typer.testing import CliRunner

from fedlens.cli.main import app

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

QUICK = (
    *("run", "model.name=lenet", "federated.num_rounds=2", "federated.fraction_fit=0.3", "runtime.name=in_process"),
    *("tracking.tensorboard=false", "tracking.pictures=false", "tracking.dir=logs"),
)


def command(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def diverged(tmp_path_factory) -> tuple[Path, str]:
    """A run with a learning rate far too high, and what its end said."""
    logs = tmp_path_factory.mktemp("logs")
    done = command(*QUICK[:-1], f"tracking.dir={logs}", "optimizer.lr=5")
    assert done.exit_code == 0, done.output
    return next(logs.iterdir()), " ".join(done.output.split())


def test_the_end_of_a_bad_run_says_why_in_two_lines(diverged) -> None:
    _, output = diverged
    assert "The learning rate is too high: " in output
    assert "optimizer.lr=0.05" in output
    assert output.count("Try: fedlens run") == 2


def test_it_says_the_strongest_first_with_evidence_and_command(diverged) -> None:
    folder, _ = diverged
    done = command("explain", folder)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[1].startswith("1. learning rate too high")
    assert "with optimizer.lr=5" in " ".join(done.output.split())
    assert any(line.startswith("   try  fedlens run") and line.endswith("optimizer.lr=0.05") for line in lines)
    assert "Seen in: training loss (loss)" in done.output


def test_json_has_the_same_and_the_curve(diverged) -> None:
    folder, _ = diverged
    found = json.loads(command("explain", folder, "--json").stdout)
    assert found[0]["name"] == "learning rate too high"
    assert found[0]["strength"] > 1
    assert [number for number, _ in found[0]["curve"]["training loss"]] == [1, 2]


def test_the_page_and_the_report_show_the_curve(diverged) -> None:
    folder, _ = diverged
    done = command("explain", folder, "--plot", "why.html")
    assert done.exit_code == 0, done.output
    for page in (Path("why.html").read_text(), (folder / "report.html").read_text()):
        assert "What limits this run" in page
        assert "1. learning rate too high" in page
        assert 'id="1-learning-rate-too-high"' in page


def test_a_run_without_findings_is_told_so() -> None:
    write_run(Path())
    done = command("explain", next(Path().glob("*fedavg*")))
    assert done.exit_code == 0, done.output
    assert "Nothing found: none of " in done.output


def test_a_run_of_an_attempt_without_a_round() -> None:
    folder = write_run(Path()).path
    (folder / "metrics.jsonl").unlink()
    done = command("explain", folder)
    assert done.exit_code == 1
    assert "no round has finished, so there is nothing to explain yet" in done.output


def test_what_is_no_run_or_damaged_is_one_line() -> None:
    Path("empty").mkdir()
    done = command("explain", "empty")
    assert done.exit_code == 2
    assert "empty" in done.output
    folder = write_run(Path()).path
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], "{", *lines[2:]]) + "\n")
    done = command("explain", folder)
    assert done.exit_code == 1
    assert "metrics.jsonl, line 2: not JSON" in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_names_that_are_html_stay_text() -> None:
    folder = write_run(Path()).path
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["failures"] = [{"client": "<b>x</b>", "reason": "<i>gone</i>"}] * 9
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = command("explain", folder, "--plot", "why.html")
    assert done.exit_code == 0, done.output
    assert "clients fail" in done.output
    assert "<b>x</b>" not in Path("why.html").read_text()
