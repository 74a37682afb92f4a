import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.commands import command
from tests.fake_runs import write_page, write_run

from fedlens.reports.compare import compare_runs
from fedlens.reports.figures.runs import compared, compared_by_communication
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.result import result_lines
from fedlens.tracking.run_dir import RunDir, find_runs
from fedlens.tracking.summary import duration, percent


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Three runs: finished, stopped after two rounds (inside a sweep), and without a round."""
    write_run(tmp_path, "whole")
    write_run(tmp_path / "sweep", "early", rounds=2, strategy="fedprox")
    write_run(tmp_path, "nothing", rounds=0)
    return tmp_path


def test_one_row_a_run(logs: Path) -> None:
    whole, early, nothing = sorted(compare_runs([logs]), key=lambda row: -row["rounds"])
    assert whole["run"].startswith("whole-")
    assert whole == {
        "run": whole["run"],
        "model": "lenet",
        "strategy": "fedavg",
        "data": "sample",
        "partition": "–",  # these runs do not say
        "fingerprint": None,
        "clients": 4,
        "rounds": 6,
        "missing_rounds": 0,
        "planned_rounds": 6,
        "personal": False,
        "accuracy": pytest.approx(0.8),
        "accuracy_low": pytest.approx(0.6269, abs=1e-4),  # Wilson, 24 of 30
        "accuracy_high": pytest.approx(0.9049, abs=1e-4),
        "examples": 30,
        "chance": pytest.approx(1 / 3),
        "majority": 0.25,
        "best_accuracy": pytest.approx(0.6),
        "best_round": 4,
        "balanced_accuracy": pytest.approx(0.8),
        "auroc": None,  # of two classes only
        "client_accuracy": pytest.approx(0.6),
        "client_accuracy_low": 0.0,  # 0.6 ± 4.3 · 0.3 / √3, cut off at 0 and 1
        "client_accuracy_high": 1.0,
        "client_examples": 100,
        "client_majority": pytest.approx(0.2),
        "shared_accuracy": None,  # nobody has a model of its own
        "client_accuracy_worst_tenth": pytest.approx(0.3),
        "evaluated_clients": 3,
        "client_accuracy_deviation": pytest.approx(0.06**0.5),  # of 0.9, 0.6, 0.3
        "image_only_accuracy": None,  # a model of images alone
        "text_only_accuracy": None,
        "zero_shot_accuracy": None,
        "found_by_text": None,
        "private": False,
        "epsilon": None,
        "megabytes": pytest.approx(18.0),
        "edge_megabytes": None,
        "seconds": pytest.approx(18.0),
        "virtual_seconds": None,  # no simulated clients of unequal speed
        "status": "finished",
    }
    assert (early["strategy"], early["rounds"], early["status"]) == ("fedprox", 2, "stopped")
    assert (early["client_accuracy"], early["best_round"]) == (None, 2)
    assert (nothing["accuracy"], nothing["seconds"], nothing["status"]) == (None, 0, "stopped")


def test_the_page_says_what_makes_the_comparison_doubtful(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_run(tmp_path, name).fingerprint.write_text(json.dumps(name))
    notes: list[str] = []
    compare_runs([tmp_path], notes.append)
    write_page([tmp_path], tmp_path / "cmp.html")
    page = (tmp_path / "cmp.html").read_text()
    (note,) = notes
    assert note.startswith("the runs were trained on different images")
    assert f'<p class="box advice">{note}</p>' in page
    assert '<table class="runs">' in page


def test_the_best_round_does_not_depend_on_min_delta(logs: Path) -> None:
    (run,) = logs.glob("whole-*")
    (run / "config.yaml").write_text("stopping: {min_delta: 3.5}\n")
    # validation losses 4, 3, 2, 1, 2, 3: none is more than 3.5 below round 1, and round 4 is the lowest
    assert compare_runs([run])[0]["best_round"] == 4


def test_the_console_calls_the_same_figure_time(logs: Path) -> None:
    (row,) = (row for row in compare_runs([logs]) if row["rounds"] == 6)
    (folder,) = (run for run in find_runs(logs) if run.name == row["run"])
    assert result_lines(read_metrics(folder.metrics), folder)["time"] == f"{duration(row['seconds'])} for 6 rounds"


def test_a_pipe_gets_a_run_on_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path, "strategy.name=fedprox-model.name=efficientnet_lite0-seed=12")
    assert run.name in command(f"compare {tmp_path}").stdout


def test_the_command_sorts_and_writes_csv_and_json(logs: Path) -> None:
    table = logs / "table.csv"
    result = command(f"compare {logs} --sort accuracy --csv {table} --json")
    assert [row["rounds"] for row in json.loads(result.stdout)] == [6, 2, 0]  # the run without accuracy comes last
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["accuracy"][:3] for row in rows] == ["0.8", "0.4", ""]


def test_a_misspelt_column_is_answered_with_the_nearest(logs: Path) -> None:
    result = command(f"compare {logs} --sort acuracy")
    assert result.exit_code == 2
    assert "Did you mean 'accuracy'?" in result.stderr


def on_a_clock(base: Path, name: str, seconds: float) -> Path:
    """A run whose rounds take so many virtual seconds."""
    run = write_run(base, name)
    lines = [line | {"virtual_seconds": line["round"] * seconds} for line in read_metrics(run.metrics)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run.path


def test_runs_with_a_clock_are_plotted_against_its_time(tmp_path: Path) -> None:
    for name, seconds in (("quick", 0.5), ("slow", 2.0)):
        on_a_clock(tmp_path, name, seconds)
    runs = {run.name: read_metrics(run.metrics) for run in find_runs(tmp_path)}
    figure = compared(runs, "test", "accuracy")
    assert figure.layout.xaxis.title.text == "virtual seconds"
    floor, quick, slow = sorted(figure.data, key=lambda line: line.name)
    assert (floor.name, list(floor.x), list(floor.y)) == ("majority class", [0.5, 12.0], [0.25, 0.25])
    assert floor.line.dash == "dot"
    assert list(quick.x) == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert list(slow.x) == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert list(slow.y) == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    assert {row["virtual_seconds"] for row in compare_runs([tmp_path])} == {3.0, 12.0}


def test_the_table_and_the_plot_tell_runs_apart_by_algorithm_and_clock(tmp_path: Path) -> None:
    first = on_a_clock(tmp_path / "a", "same", 20.0)
    other = on_a_clock(tmp_path / "b", "same", 2.0)
    settings = yaml.safe_load((other / "config.yaml").read_text())
    asked = {"aggregation": {"name": "krum"}, "attack": {"name": "sign_flip", "fraction": 0.2}}
    (other / "config.yaml").write_text(yaml.safe_dump({**settings, **asked}))
    printed = command(f"compare {tmp_path} --plot {tmp_path}/plot.html").stdout
    assert "fedavg + krum, 20 % attack by sign_flip" in printed
    assert [line.split("  ")[-1].strip() for line in printed.split("\n\n")[0].splitlines()] == [
        "virtual time",
        "2 min 0 s",
        "12.0 s",
    ]
    page = (tmp_path / "plot.html").read_text().replace("\\u002f", "/")
    assert f'"fedavg: a/{first.name}"' in page, "runs of one name do not hide each other"
    assert f'"fedavg + krum, 20 % attack by sign_flip: b/{other.name}"' in page


def test_runs_without_a_clock_among_them_are_plotted_by_round(logs: Path) -> None:
    on_a_clock(logs, "timed", 0.5)
    runs = {run.name: read_metrics(run.metrics) for run in find_runs(logs)}
    figure = compared(runs, "test", "accuracy")
    assert figure.layout.xaxis.title.text == "round"
    assert all(line.x[0] == 1 for line in figure.data)


def rewrite(run: RunDir, lines: list[dict[str, Any]]) -> None:
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def plots(text: str) -> list[str]:
    return re.findall(r'<div id="([^"]+)" class="plotly-graph-div"', text)


def test_client_accuracy_has_a_plot_where_it_was_measured_more_than_once_or_is_all_there_is(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    private, shared = (write_run(tmp_path / "logs", name) for name in ("private", "shared"))
    *before, last = read_metrics(shared.metrics)
    rewrite(shared, [*({**line, "clients": None} for line in before), last])
    write_page([shared.path], page)
    assert plots(page.read_text()) == ["test-accuracy", "test-accuracy-by-communication"]
    without_test = [{**line, "test": None} for line in [*before, last]]
    rewrite(private, without_test)
    write_page([tmp_path / "logs"], page)
    assert plots(page.read_text()) == ["test-accuracy", "client-accuracy", "test-accuracy-by-communication"]
    write_page([private.path], page)
    assert plots(page.read_text()) == ["client-accuracy"]
    home = compared({"private": without_test}, "clients", "accuracy")
    assert [line.name for line in home.data] == ["private", "majority class"]
    assert list(home.data[0].y) == pytest.approx(
        [line["clients"]["accuracy"] for line in without_test if line["clients"]]
    )


def test_accuracy_is_plotted_against_all_that_was_sent_until_then(tmp_path: Path) -> None:
    run = write_run(tmp_path, "whole")
    lines = read_metrics(run.metrics)
    lines[1]["test"] = None  # communication counts whether or not a round is evaluated
    line, floor = compared_by_communication({"whole": lines}).data
    assert (floor.name, list(floor.y)) == ("majority class", [0.25, 0.25])
    assert list(line.x) == pytest.approx([3.0, 9.0, 12.0, 15.0, 18.0])  # (2 + 1) MB a round
    assert list(line.y) == pytest.approx([0.3, 0.5, 0.6, 0.7, 0.8])


def test_the_ninth_run_differs_from_the_first_by_its_dashes(tmp_path: Path) -> None:
    metrics = read_metrics(write_run(tmp_path, "whole").metrics)
    lines = [line.line for line in compared({str(number): metrics for number in range(9)}, "test", "accuracy").data]
    assert (lines[0].color, lines[0].dash) == (lines[8].color, "solid")
    assert lines[8].dash == "dash"


def test_the_command_writes_the_plot(logs: Path) -> None:
    page = logs / "curves.html"
    result = command(f"compare {logs} --plot {page}")
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    assert plots(text) == ["test-accuracy", "client-accuracy", "test-accuracy-by-communication"]
    assert "<td>6/6</td><td>80.0 ±17.3 %</td><td>60.0 %</td>" in text
    assert "<script src=" not in text, "it needs no network"
    result = command(f"compare {logs} --plot {logs}/gone/curves.html")
    assert result.exit_code == 2
    assert "--plot" in result.stderr
    (nothing,) = logs.glob("nothing-*")
    result = command(f"compare {nothing} --plot {page}")
    assert "none of the runs has an accuracy yet" in result.stderr


def test_comparing_does_not_wait_for_torch(logs: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fedlens.reports.compare import compare_runs;"
        f"compare_runs([Path({str(logs)!r})]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_that_was_moved_keeps_its_figures(logs: Path, tmp_path: Path) -> None:
    (run,) = logs.glob("whole-*")
    moved = shutil.move(run, tmp_path / "elsewhere")
    assert compare_runs([Path(moved)])[0]["accuracy"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (192.4, "3 min 12 s"), (7500, "2 h 5 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_shares_are_percent() -> None:
    assert (percent(0.8213), percent(None), percent(1.0)) == ("82.1 %", "–", "100.0 %")


def test_a_run_whose_model_is_partly_private(logs: Path) -> None:
    (run,) = logs.glob("whole-*")
    with (run / "config.yaml").open("a") as file:
        file.write("personalization: {name: fedper}\n")
    lines = [{**line, "test": None} for line in read_metrics(run / "metrics.jsonl")]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = compare_runs([run])
    assert (row["strategy"], row["accuracy"], row["best_accuracy"]) == ("fedavg + fedper", None, None)
    assert (row["best_round"], row["client_accuracy"]) == (4, pytest.approx(0.6))
    assert "6/6  –  –  60.0 ±60.0 %  30.0 %" in re.sub(" {2,}", "  ", command(f"compare {run}").stdout)
