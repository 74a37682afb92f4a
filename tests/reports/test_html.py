import dataclasses
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fake_runs import CLASSES, client_evaluations, record, write_run

from fedlens.core.files import to_json, write_json
from fedlens.core.records import ClientEvaluation
from fedlens.errors import FedLensError
from fedlens.reports.html import write_report
from fedlens.reports.load import load_run
from fedlens.tracking.metrics import MetricsFile, read_metrics
from fedlens.tracking.run_dir import RunDir

PLOTS = (
    "accuracy",
    "loss",
    "client-accuracy",
    "who-holds-what",
    "how-unlike-the-others",
    "confusion-matrix",
    "recall-by-class",
    "drift",
    "time",
    "communication",
    "update-norm",
    "learning-rate",
)


def text_of(page: Path) -> str:
    """What a reader sees beside the plots: the page without scripts, styles and tags."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", bare))


def test_the_page_opens_with_the_figures_that_count(tmp_path: Path) -> None:
    text = text_of(write_report(write_run(tmp_path).path))
    assert "80.0 % test accuracy, last round" in text  # round 6: 8 of 10 of each class
    assert "60.0 % test accuracy at round 4, best by validation" in text
    assert "60.0 % client accuracy, mean over clients" in text
    assert "30.0 % client accuracy, worst client" in text
    assert "18.0 MB communication" in text  # 6 rounds × (2 + 1) MB
    assert "18.0 s time of all rounds" in text  # 6 rounds × 3 s
    assert "6 of 6 rounds done" in text
    assert "finished: all rounds done" in text
    assert "2 west the loss is NaN" in text
    assert "57 images read, 1 left out" in text
    assert "bad &lt;photo&gt;.png empty file" in text
    assert "name: lenet" in text


def test_a_run_that_learnt_nothing_is_told_what_to_try(tmp_path: Path) -> None:
    poor, good = write_run(tmp_path, "poor", rounds=1), write_run(tmp_path, "good")
    text = text_of(write_report(poor.path))
    assert "test accuracy 30.0 % on 30 images is no better than naming one class without learning (33.3 %)" in text
    assert f"Try: fedlens run {poor.config} model.name=efficientnet_lite0 model.pretrained=true" in text
    assert "without learning (" not in text_of(write_report(good.path))


def test_the_page_stands_alone_and_holds_every_plot_once(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path).path).read_text(encoding="utf-8")
    assert not re.search(r"""<(script|link|img)[^>]*\b(src|href)=""", page)
    assert page.count('<script id="plotly"') == 1
    assert [page.count(f'id="{name}"') for name in PLOTS] == [1] * len(PLOTS)


def test_names_are_text_never_markup(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path).path).read_text(encoding="utf-8")
    assert CLASSES[2] not in page
    assert "<photo>" not in page


@pytest.mark.parametrize("rounds", [0, 2])
def test_an_unfinished_run_has_a_page(rounds: int, tmp_path: Path) -> None:
    text = text_of(write_report(write_run(tmp_path, rounds=rounds).path))
    assert "stopped" in text
    assert f"{rounds} of 6 rounds done" in text
    assert ("No round has finished yet." in text) == (rounds == 0)
    assert "– client accuracy, mean over clients" in text  # clients are first evaluated in round 3


def test_a_run_with_nothing_but_its_configuration_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "checkpoints").mkdir()
    assert "No round has finished yet." in text_of(write_report(tmp_path))


def test_a_model_with_more_outputs_than_classes_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    wide = [[0] * 1000 for _ in range(1000)]
    wide[0][0], wide[1][999] = 5, 2
    write_json(run.confusion, {"round": 6, "test": wide, "validation": None})
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "class 999" in page
    assert "class 998" not in page


def test_many_classes_and_clients_stay_readable(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    names = [f"kind {index}" for index in range(50)]
    matrix = [[10 if column == row else 0 for column in range(50)] for row in range(50)]
    matrix[49][49], matrix[49][0] = 1, 9  # the last class is recognised worst
    write_json(run.confusion, {"round": 6, "test": matrix, "validation": None})
    clients = {f"c{index}": {"train": [1] * 50, "val": [0] * 50, "test": [0] * 50} for index in range(100)}
    write_json(run.partition, {"class_names": names, "clients": clients, "test": [1] * 50})
    page = write_report(run.path)
    assert "The 40 classes recognised worst." in text_of(page)
    matrix_plot = page.read_text(encoding="utf-8").split('id="confusion-matrix"')[1].split("</figure>")[0]
    assert "kind 49" in matrix_plot
    assert "kind 48" not in matrix_plot


def test_damaged_files_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.partition.write_text("{")
    with pytest.raises(FedLensError, match=r"partition\.json, line 1: not JSON"):
        load_run(run.path)
    run.config.write_text("a: [")
    with pytest.raises(FedLensError, match=r"config\.yaml, line 1, column 5: is not YAML"):
        load_run(run.path)


def test_class_names_fall_back_to_numbers(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.partition.unlink()
    assert load_run(run.path).class_names == ["0", "1", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "empty"])
def test_a_browser_without_network_draws_the_plots(kind: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, rounds=6 if kind == "whole" else 0)
    page = dumped(write_report(run.path), tmp_path)
    places = re.split(r'<div id="([a-z-]+)" class="plotly-graph-div js-plotly-plot"', page)
    drawn = dict(zip(places[1::2], places[2::2], strict=True))
    assert list(drawn) == (list(PLOTS) if kind == "whole" else ["who-holds-what", "how-unlike-the-others"])
    blank = [name for name, svg in drawn.items() if not re.search(r'<g class="(trace|hm)\b', svg)]
    assert blank == []
    assert ">&lt;script&gt;window.broken=1&lt;/script&gt;</text>" in page  # the name is a label …
    assert "<script>window.broken" not in page  # … and never an element


def dumped(page: Path, folder: Path) -> str:
    """The page's elements after its scripts have run in a headless Chromium that can reach nothing."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser, "this test needs chromium: `make system` installs it"
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --virtual-time-budget=10000 --dump-dom"
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    command = [browser, *flags.split(), offline, f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_rewriting_after_a_resume_replaces_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path, rounds=2)
    before = text_of(write_report(run.path))
    MetricsFile(run.metrics, after_round=1).close()
    after = text_of(write_report(RunDir.open(run.path).path))
    assert "2 of 6 rounds done" in before
    assert "1 of 6 rounds done" in after


def test_measured_numbers_have_a_plot_for_each_group(tmp_path: Path) -> None:
    run = write_run(tmp_path, rounds=2)
    metrics = MetricsFile(run.metrics, 2)
    metrics.round(dataclasses.replace(record(3), measures={"attack/success": 0.5, "drift/cosine<b>": 0.1}))
    metrics.close()
    page = write_report(run.path).read_text(encoding="utf-8")
    for name in ("attack", "drift"):
        assert f'id="{name}"' in page
    assert "Measured" in text_of(run.report)
    assert "cosine<b>" not in page.replace("cosine\\u003cb", "")


def test_runs_from_before_there_were_measures_have_none(tmp_path: Path) -> None:
    run = write_run(tmp_path, rounds=1)
    (line,) = read_metrics(run.metrics)
    del line["measures"]
    run.metrics.write_text(f"{to_json(line)}\n")
    assert "Measured" not in text_of(write_report(run.path))


def own_and_shared(accuracies: list[float]) -> tuple[ClientEvaluation, ...]:
    """The usual four clients, whose shared model has these accuracies at home."""
    return tuple(
        replace(client, shared_accuracy=shared) for client, shared in zip(client_evaluations(), accuracies, strict=True)
    )


def test_shared_and_personal_accuracy_of_every_client(tmp_path: Path) -> None:
    run = write_run(tmp_path, rounds=2)
    tracker = MetricsFile(run.metrics, after_round=2)
    tracker.round(replace(record(3), clients=own_and_shared([0.5, 0.7, 0.3, 0.2])))
    page = write_report(run.path)
    assert page.read_text(encoding="utf-8").count('id="shared-against-personal"') == 1
    text = text_of(page)
    # (0.5 + 0.7 + 0.3) / 3; the client that was never sampled is counted apart
    assert "50.0 % client accuracy of the shared model, which no client uses" in text
    table = text[text.index("points gained") :]
    assert re.findall(r"(east|west|south|never sampled\)) (\d+) ([\d.]+) % ([\d.]+) % ([+-][\d.]+)", table) == [
        ("east", "20", "70.0", "60.0", "-10.0"),
        ("west", "70", "30.0", "30.0", "+0.0"),
        ("south", "10", "50.0", "90.0", "+40.0"),
        ("never sampled)", "10", "20.0", "10.0", "-10.0"),
    ]


def test_one_model_for_everybody_is_compared_with_nothing(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path).path).read_text(encoding="utf-8")
    assert "shared-against-personal" not in page
    assert "points gained" not in page
