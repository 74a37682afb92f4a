"""Reports of runs that lack something, or have too much of it; and whether the plots show the run's own numbers."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fake_runs import CLIENTS, federated_data, record, save_data, write_run

from fedlens.core.files import write_json
from fedlens.core.records import ClientEvaluation, Evaluation, RoundRecord
from fedlens.core.types import ClientFailure, ClientReport, MeanMetric
from fedlens.data.types import ClientRows
from fedlens.reports.figures import classes, clients, rounds
from fedlens.reports.headline import headline
from fedlens.reports.html import MEASURED, write_report
from fedlens.reports.load import load_run
from fedlens.reports.uses import FIGURES, USES
from fedlens.tracking.metrics import MetricsFile
from fedlens.tracking.run_dir import RunDir


def run_of(base: Path, *records: RoundRecord) -> RunDir:
    """A run whose metrics are `records`."""
    run = write_run(base, rounds=0)
    metrics = MetricsFile(run.metrics)
    for one in records:
        metrics.round(one)
    metrics.close()
    return run


def traces(figure: Any) -> dict[str, list[tuple[Any, Any]]]:
    """Name → points of every trace that stands upright."""
    return {trace.name: list(zip(trace.x, trace.y, strict=True)) for trace in figure.data}


def near(points: list[tuple[Any, float]]) -> list[Any]:
    return [(x, pytest.approx(y)) for x, y in points]


def page_of(run: RunDir) -> str:
    return write_report(run.path).read_text(encoding="utf-8")


def test_curves_show_the_metrics(tmp_path: Path) -> None:
    metrics = load_run(write_run(tmp_path).path).metrics
    accuracy = traces(rounds.accuracy_curves(metrics))
    # see fake_runs.record: of 10 images a class, 2 + round are right in the test, 1 + round in the validation set
    assert accuracy["test"] == near([(number, (2 + number) / 10) for number in range(1, 7)])
    assert accuracy["validation"] == near([(number, (1 + number) / 10) for number in range(1, 7)])
    assert accuracy["client accuracy"] == near([(3, 0.6), (6, 0.6)])
    assert accuracy["worst client"] == near([(3, 0.3), (6, 0.3)])
    # dotted, from the first round to the last: see fake_runs
    assert accuracy["chance"] == near([(1, 1 / 3), (6, 1 / 3)])
    assert accuracy["majority class, test"] == near([(1, 0.25), (6, 0.25)])
    assert accuracy["majority class, clients"] == near([(1, 0.2), (6, 0.2)])
    assert traces(rounds.accuracy_curves(metrics, personal=True))["majority class, clients"][0] == (
        1,
        pytest.approx(0.4),
    )
    loss = traces(rounds.loss_curves(metrics))
    assert loss["training"] == loss["test"] == near([(number, 2 - 0.2 * number) for number in range(1, 7)])
    assert loss["validation"] == near([(1, 4), (2, 3), (3, 2), (4, 1), (5, 2), (6, 3)])
    (norms,) = traces(rounds.update_norms(metrics)).values()
    assert norms == near([(number, 1 / number) for number in range(1, 7)])
    (rates,) = traces(rounds.learning_rates(metrics)).values()
    assert rates == near([(number, 0.1 / number) for number in range(1, 7)])


def test_bars_show_the_metrics(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path).path)
    moved = traces(rounds.communication(run.metrics))
    assert moved["clients → server"] == near([(number, 1.0 * number) for number in range(1, 7)])
    assert moved["server → clients"] == near([(number, 2.0 * number) for number in range(1, 7)])
    assert {trace.stackgroup for trace in rounds.communication(run.metrics).data} == {"sent"}  # stacked: the sum
    seconds = traces(rounds.timing(run.metrics))
    assert {phase: points[0] for phase, points in seconds.items()} == {
        "broadcast": (1, 0.1), "train": (1, 2.0), "aggregate": (1, 0.2), "evaluate": (1, 0.5), "checkpoint": (1, 0.2),
    }  # fmt: skip
    at_home = traces(clients.client_accuracies(run.metrics))
    assert at_home["has trained"] == [("north &amp; south", 0.9), ("east", 0.6), ("west", 0.3)]
    assert at_home["never sampled"] == [("centre", 0.1)]
    assert at_home["majority class"] == [("north &amp; south", 0.2), ("east", 0.3), ("west", 0.1)]
    own = traces(clients.client_accuracies(run.metrics, personal=True))["majority class"]
    assert own == [("north &amp; south", 0.5), ("east", 0.4), ("west", 0.3)]
    # see fake_runs.federated_data: the first 8 rows of each client's 12 train
    held = traces(clients.partition(run.partition))
    assert held["cat"] == [("north &amp; south", 8), ("east", 4), ("west", 0), ("centre", 0)]


@pytest.mark.parametrize("digits", range(-4, 1))
@pytest.mark.parametrize("leading", [1, 2, 5])
def test_ticks_next_to_each_other_differ(leading: int, digits: int, tmp_path: Path) -> None:
    """plotly's steps are 1, 2 or 5 times a power of ten; it takes the first format whose range holds the step."""
    step = leading * 10.0**digits
    axis = rounds.accuracy_curves(load_run(write_run(tmp_path).path).metrics).layout.yaxis
    ranges = ((stop.dtickrange, stop.value) for stop in axis.tickformatstops)
    form = next(form for (low, high), form in ranges if (low or 0) <= step <= (high or math.inf))
    ticks = [format(0.5 + number * step, form) for number in range(4)]
    assert len(set(ticks)) == len(ticks)
    assert len(form) == len(".0%")
    assert step < 0.01 or form == ".0%"  # and no more decimals than it takes


def test_all_plots_of_clients_have_one_order(tmp_path: Path) -> None:
    """That of the partition: the first client is neither the best nor the one most unlike the others."""
    run = load_run(write_run(tmp_path).path)
    ordered = ["north &amp; south", "east", "west", "centre"]
    assert list(clients.client_accuracies(run.metrics).layout.xaxis.categoryarray) == ordered
    assert list(clients.partition(run.partition).data[0].x) == ordered
    assert list(clients.label_distances(run.partition).data[0].x) == ordered


def test_a_class_looks_the_same_in_every_run_and_like_no_other() -> None:
    """20 classes are as many as bars show; Okabe and Ito's colours are 8, so patterns tell the others apart."""

    def colours(names: list[str]) -> list[tuple[str, str]]:
        held = {"class_names": names, "clients": {"a": {"train": [1] * len(names)}}}
        figure = clients.partition(held)
        assert figure.layout.legend.traceorder == "normal"  # that of the classes; plotly reverses stacked bars
        return [(bar.marker.color, bar.marker.pattern.shape) for bar in figure.data]

    many = colours([str(number) for number in range(20)])
    assert colours(["cat", "dog"]) == many[:2]
    assert len(set(many)) == 20


def test_the_confusion_matrix_and_recalls_show_the_counts() -> None:
    matrix = [[8, 2], [5, 5]]
    (heat,) = classes.confusion(matrix, ["cat", "dog"]).data
    assert np.array_equal(heat.customdata, matrix)
    assert np.array_equal(heat.z, [[0.8, 0.2], [0.5, 0.5]])
    (bars,) = classes.recalls(matrix, ["cat", "dog"]).data
    assert list(zip(bars.y, bars.x, strict=True)) == [("dog", 0.5), ("cat", 0.8)]


def test_no_test_set(tmp_path: Path) -> None:
    run = run_of(tmp_path, *(dataclasses.replace(record(number), test=None) for number in (1, 2)))
    page = page_of(run)
    head = headline(load_run(run.path))
    assert (head.accuracy, head.best_accuracy, head.best_round) == (None, None, 2)
    assert "<b>–</b><span>test accuracy, last round" in page
    assert 'id="accuracy"' in page  # validation is there to be shown
    assert 'id="confusion-matrix"' not in page


def test_no_images_to_evaluate_on_at_all(tmp_path: Path) -> None:
    run = run_of(tmp_path, dataclasses.replace(record(1), test=None, validation=None))
    run.confusion.unlink(missing_ok=True)
    page = page_of(run)
    assert "no validation images" in page
    assert 'id="loss"' in page


def test_losses_that_are_not_finite(tmp_path: Path) -> None:
    """A round that nobody finished, then one whose evaluations are NaN and infinite."""
    lost = dataclasses.replace(
        record(1), reports=(), failures=tuple(ClientFailure(name, 1, "loss <is> NaN") for name in CLIENTS)
    )
    confusion = np.eye(3, dtype=np.int64)
    wild = dataclasses.replace(
        record(2),
        reports=(ClientReport("east", 1.0, {"loss": MeanMetric(math.inf, 1)}),),
        test=Evaluation(math.nan, confusion),
        validation=Evaluation(math.inf, confusion),
        update_norm=math.inf,
    )
    run = run_of(tmp_path, lost, wild, record(3))
    page = page_of(run)
    assert headline(load_run(run.path)).best_round == 3
    assert page.count("<td>loss &lt;is&gt; NaN</td>") == len(CLIENTS)
    plots = re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.S).split('id="loss"')[1]
    assert not re.search(r"\b(NaN|Infinity)\b[,\]]", plots)  # JSON has neither: the plots would stay empty


def test_two_classes(tmp_path: Path) -> None:
    confusion = np.array([[9, 1], [4, 6]])
    run = run_of(tmp_path, dataclasses.replace(record(1), test=Evaluation(0.5, confusion, auroc=0.875)))
    write_json(
        run.partition,
        {
            "class_names": ["good", "bad"],
            "clients": {"a": {"train": [3, 4], "val": [0, 0], "test": [1, 1]}},
            "test": [],
        },
    )
    page = page_of(run)
    assert "<b>0.875</b><span>AUROC" in page
    assert "<b>75.0 %</b><span>test accuracy, last round" in page  # 9 + 6 of 20
    assert "AUROC" not in page_of(write_run(tmp_path, "three"))


def test_three_hundred_clients(tmp_path: Path) -> None:
    """100 at 0 %, 100 at 52 % (20 of them never sampled), 100 at 100 %."""
    accuracies = [0.0] * 100 + [0.52] * 100 + [1.0] * 100
    evaluations = tuple(
        ClientEvaluation(f"c{number}", accuracy, 1.0, 10, trained=not 100 <= number < 120)
        for number, accuracy in enumerate(accuracies)
    )
    run = run_of(tmp_path, dataclasses.replace(record(1), clients=evaluations))
    data = federated_data()
    empty = np.empty(0, np.int64)
    everyone = tuple(
        ClientRows(one.client, np.array([number % 48]), empty, empty) for number, one in enumerate(evaluations)
    )
    save_data(run, dataclasses.replace(data, clients=everyone))
    loaded = load_run(run.path)
    counts = {name: {round(x, 3): y for x, y in points if y} for name, points in traces(
        clients.client_accuracies(loaded.metrics)).items()}  # fmt: skip
    assert counts == {"has trained": {0.025: 100, 0.525: 80, 0.975: 100}, "never sampled": {0.525: 20}}
    (heat,) = clients.partition(loaded.partition).data
    assert np.array(heat.z).shape == (300, 3)
    assert np.array(heat.z).sum() == 300
    assert "300 clients" in page_of(run)


def test_a_very_long_table_is_cut(tmp_path: Path) -> None:
    failures = tuple(ClientFailure(f"c{number}", 1, "gone") for number in range(1000))
    page = page_of(run_of(tmp_path, dataclasses.replace(record(1), failures=failures)))
    assert page.count("<td>gone</td>") == 200
    assert "… and 800 more." in page


def test_a_page_reaches_for_nothing_on_a_network(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path))
    without_plotly = re.sub(r'<script id="plotly".*?</script>', "", page, flags=re.S)
    assert len(without_plotly) < len(page) / 4
    assert not re.search(r"https?://|//cdn", without_plotly)
    assert not re.search(r"""\b(src|href)\s*=|@import|url\(""", without_plotly)


def test_every_plot_says_what_it_is_good_for(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path))
    titles = re.findall(r"<h3>([^<]+)</h3><figcaption>", page)
    assert len(titles) == page.count('class="use"') >= 10
    assert len(set(re.findall(r'class="use">([^<]+)', page))) == len(titles)


def test_every_group_of_measured_numbers_says_what_it_is_good_for() -> None:
    assert {group.capitalize().replace("_", " ") for group in MEASURED} <= USES.keys()


def test_every_figure_at_the_top_says_what_it_is_good_for(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path))
    names = [name for name in re.findall(r'class="card"><b>[^<]*</b><span>([^<]+)', page) if name != "rounds done"]
    assert len(names) > 5
    for name in names:
        (use,) = [text for begin, text in FIGURES.items() if name.startswith(begin)]
        assert use in html.unescape(page)


def test_of_very_many_clients_the_plots_show_how_many_are_alike() -> None:
    """1,200 clients with 1 cat and 2 dogs, 300 with 3 cats: of all images 2,100 are cats and 2,400 dogs."""
    held = {f"client{number}": {"train": [1, 2] if number < 1200 else [3, 0]} for number in range(1500)}
    (heat,) = clients.partition({"class_names": ["cat", "dog"], "clients": held}).data
    assert list(heat.y) == ["0", "1", "2", "3"]
    assert heat.z.tolist() == [[0, 300], [1200, 0], [0, 1200], [300, 0]]
    figure = clients.label_distances({"clients": held})
    # total variation: 1/3 is 0.1333 from 7/15, in the sixth step of 0.025; 1 is 0.5333 away, in the twenty-second
    variation = dict(enumerate(figure.data[0].y.tolist()))
    assert {place: number for place, number in variation.items() if number} == {5: 1200, 21: 300}


def test_many_images_of_a_class_are_shown_in_steps() -> None:
    held = {f"client{number}": {"train": [number]} for number in range(1100)}
    (heat,) = clients.partition({"class_names": ["cat"], "clients": held}).data
    assert list(heat.y)[:2] == ["0–27", "28–55"]  # 1,099 // 40 + 1 = 28
    assert int(heat.z.sum()) == 1100
