import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from tests.fake_runs import CLIENTS, client_evaluations, record

from fedlens.core.records import ClientEvaluation, Evaluation
from fedlens.core.types import MeanMetric
from fedlens.errors import FedLensError
from fedlens.tracking.clients import summarize_clients
from fedlens.tracking.metrics import MetricsFile, line_of, read_metrics
from fedlens.tracking.scalars import scalars_of
from fedlens.tracking.summary import best_round, last_with


def write(path: Path, rounds: range, after_round: int | None = None) -> None:
    metrics = MetricsFile(path, after_round)
    for number in rounds:
        metrics.round(record(number, clients=number == 3))
    metrics.close()


def test_a_line_holds_the_whole_round(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", range(2, 4))
    second, third = read_metrics(tmp_path / "metrics.jsonl")
    assert second["round"] == 2
    assert second["train_loss"] == pytest.approx(1.6)
    assert second["test"] == {
        "loss": pytest.approx(1.6),
        "accuracy": pytest.approx(0.4),
        # Wilson, 12 of 30: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z = 1.96
        "accuracy_low": pytest.approx(0.2459, abs=1e-4),
        "accuracy_high": pytest.approx(0.5768, abs=1e-4),
        "chance": pytest.approx(1 / 3),
        "majority": 0.25,
        "balanced_accuracy": pytest.approx(0.4),
        "recalls": pytest.approx([0.4, 0.4, 0.4]),
        "auroc": None,
        "examples": 30,
    }
    assert second["validation"]["accuracy"] == pytest.approx(0.3)
    assert second["failures"] == [{"client": "west", "reason": "the loss is NaN"}]
    assert second["cohort"][0] == {"client": CLIENTS[0], "weight": 20.0, "metrics": {"loss": pytest.approx(1.6)}}
    assert (second["lr"], second["update_norm"]) == (0.05, 0.5)
    assert (second["bytes_up"], second["bytes_down"], second["seconds"]["train"]) == (1_000_000, 2_000_000, 2.0)
    assert second["measures"] == {"drift/mean": 1.5}
    assert second["clients"] is None
    assert third["clients"]["accuracy"] == pytest.approx(0.6)
    assert third["clients"]["by_client"][3] == dataclasses.asdict(client_evaluations()[3])
    assert second.keys() == third.keys()


def test_a_line_of_an_asynchronous_step(tmp_path: Path) -> None:
    """Round 2 has two updates, 3 steps old and fresh, and one failure."""
    plain = record(2)
    late = tuple(
        dataclasses.replace(report, metrics={**report.metrics, "staleness": MeanMetric(steps, 1)})
        for report, steps in zip(plain.reports, (3, 0), strict=True)
    )
    step = dataclasses.replace(plain, reports=late, virtual_seconds=12.5)
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.round(plain)
    metrics.round(step)
    synchronous, asynchronous = read_metrics(tmp_path / "metrics.jsonl")
    assert (synchronous["virtual_seconds"], synchronous["staleness"], synchronous["arrivals"]) == (None, None, 3)
    assert (asynchronous["virtual_seconds"], asynchronous["arrivals"]) == (12.5, 3)
    assert asynchronous["staleness"] == {"mean": 1.5, "max": 3}
    assert asynchronous["cohort"][0]["metrics"]["staleness"] == 3
    tags = scalars_of(line_of(step))
    assert (tags["staleness/mean"], tags["staleness/max"], tags["train/virtual_seconds"]) == (1.5, 3, 12.5)
    assert tags["train/arrivals"] == 3
    assert not {"staleness/mean", "train/virtual_seconds"} & scalars_of(line_of(plain)).keys()


def test_what_else_was_measured_stands_by_its_name(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.round(dataclasses.replace(record(1), measures={}))
    metrics.round(dataclasses.replace(record(2), measures={"attack/success": 0.5}))
    metrics.close()
    assert [line["measures"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [{}, {"attack/success": 0.5}]


def test_a_line_is_readable_before_the_next_round(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.round(record(1))
    assert [line["round"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    metrics.close()


def test_the_confusion_matrix_of_the_last_evaluation_is_kept_apart(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.round(record(1))
    metrics.round(dataclasses.replace(record(2), test=None, validation=None))
    metrics.close()
    kept = json.loads((tmp_path / "confusion.json").read_text())
    assert kept["round"] == 1
    assert kept["test"] == [[3, 7, 0], [0, 3, 7], [7, 0, 3]]
    assert "confusion" not in (tmp_path / "metrics.jsonl").read_text()


def test_nan_is_null_and_an_empty_evaluation_is_none(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    absent_class = Evaluation(loss=float("nan"), confusion=np.array([[2, 0], [0, 0]]), auroc=float("nan"))
    empty = Evaluation(loss=float("nan"), confusion=np.zeros((2, 2), dtype=np.int64))
    metrics.round(dataclasses.replace(record(1), reports=(), test=absent_class, validation=empty))
    metrics.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    written = json.loads(line, parse_constant=pytest.fail)
    assert written["train_loss"] is None
    assert written["test"]["recalls"] == [1.0, None]
    assert written["validation"] is None


def test_resuming_drops_later_and_torn_lines_and_repeats_the_file(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    write(whole, range(1, 6))
    text = whole.read_text()
    resumed.write_text(text[: len(text) - 40])  # killed in the middle of round 5's line
    assert [line["round"] for line in read_metrics(resumed)] == [1, 2, 3, 4]
    write(resumed, range(3, 6), after_round=2)
    assert resumed.read_text() == text


def test_a_new_run_starts_an_empty_file(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", range(1, 3))
    write(tmp_path / "metrics.jsonl", range(1, 2))
    assert [line["round"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", range(1, 3))
    text = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text("{torn\n" + text)
    with pytest.raises(FedLensError, match=r"metrics\.jsonl, line 1: not JSON"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(FedLensError, match=r"round 1 cannot be written \(No space left on device\).*fedlens resume"):
        metrics.round(record(1))
    metrics.close()


def test_client_means_count_clients_and_images() -> None:
    summary = summarize_clients(client_evaluations())
    assert summary.accuracy == pytest.approx(0.6)
    assert summary.accuracy_over_examples == pytest.approx(0.42)
    assert summary.accuracy_worst_tenth == pytest.approx(0.3)  # ⌈3/10⌉ = 1 client
    assert summary.accuracy_best_tenth == pytest.approx(0.9)
    assert summary.accuracy_deviation == pytest.approx(0.06**0.5)  # variance (0.3² + 0 + 0.3²) / 3
    assert summary.loss == pytest.approx(0.6)
    assert (summary.evaluated, summary.never_sampled, summary.never_sampled_accuracy) == (3, 1, 0.1)


def test_the_worst_tenth_of_eleven_clients_is_two() -> None:
    clients = [ClientEvaluation(str(k), accuracy=k / 10, loss=1.0, examples=5, trained=True) for k in range(11)]
    assert summarize_clients(clients).accuracy_worst_tenth == pytest.approx((0.0 + 0.1) / 2)
    assert summarize_clients(clients).accuracy_best_tenth == pytest.approx((0.9 + 1.0) / 2)


def test_no_trained_client_is_no_mean() -> None:
    summary = summarize_clients(client_evaluations()[3:])
    figures = (
        summary.accuracy,
        summary.accuracy_low,
        summary.accuracy_over_examples,
        summary.accuracy_worst_tenth,
        summary.accuracy_best_tenth,
        summary.accuracy_deviation,
        summary.loss,
        summary.majority,
    )
    assert set(figures) == {None}
    assert summary.never_sampled_accuracy == 0.1


def test_the_best_round_is_chosen_by_validation_loss(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", range(1, 7))
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    best = best_round(metrics)
    assert best is not None
    assert best["round"] == 4  # test accuracy is highest in round 6
    clients = last_with(metrics, "clients")
    assert clients is not None
    assert clients["evaluated"] == 3
    assert best_round([{**line, "validation": None} for line in metrics]) is None
    assert last_with([], "test") is None


def test_attackers_and_clients_that_never_trained_are_summarised_apart() -> None:
    """The figures of `client_evaluations`, with "west" (30 % of 70 images) among the attackers: (0.9 + 0.6) / 2."""
    clients = [dataclasses.replace(one, malicious=one.client == CLIENTS[2]) for one in client_evaluations()]
    clients[3] = dataclasses.replace(clients[3], own_majority=1.0)  # never sampled
    summary = summarize_clients(clients)
    assert summary.accuracy == pytest.approx(0.75)
    assert summary.accuracy_worst_tenth == pytest.approx(0.6)
    assert summary.accuracy_over_examples == pytest.approx((9 + 12) / 30)
    assert (summary.majority, summary.own_majority) == pytest.approx((0.25, 0.45))
    assert (summary.evaluated, summary.examples) == (2, 30)
    assert (summary.malicious, summary.malicious_accuracy) == (1, pytest.approx(0.3))
    assert (summary.never_sampled, summary.never_sampled_accuracy) == (1, pytest.approx(0.1))


def test_names_that_earlier_versions_wrote_are_read(tmp_path: Path) -> None:
    old = {"mean": 0.6, "worst_tenth": 0.3, "shared_mean": 0.5, "deviation": 0.1, "evaluated": 3}
    file = tmp_path / "metrics.jsonl"
    write(file, range(1, 3))
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    texts = [json.dumps(line | {"clients": clients}) for line, clients in zip(lines, (old, None), strict=True)]
    file.write_text("\n".join([*texts, ""]))
    first, second = read_metrics(file)
    assert first["clients"] == {
        "accuracy": 0.6,
        "accuracy_worst_tenth": 0.3,
        "shared_accuracy": 0.5,
        "accuracy_deviation": 0.1,
        "evaluated": 3,
    }
    assert second["clients"] is None
