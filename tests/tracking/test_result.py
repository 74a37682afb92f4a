"""The figures at the end of a run, on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fake_runs import write_run

from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.result import result_lines
from fedlens.tracking.wording import in_full, with_interval


def metrics_of(folder: Path, **clients: Any) -> tuple[list[dict[str, Any]], Any]:
    run = write_run(folder)
    metrics = read_metrics(run.metrics)
    metrics[-1]["clients"] |= clients
    return metrics, run


def test_each_accuracy_has_its_interval_its_images_and_its_floors(tmp_path: Path) -> None:
    """24 of 30 images; Wilson's interval as in test_intervals; floors as in fake_runs."""
    lines = result_lines(*metrics_of(tmp_path))
    assert lines["test accuracy"] == "80.0 % (95 %: 62.7–90.5), 30 images; chance 33.3 %, majority class 25.0 %"
    assert lines["  of the best model"] == "60.0 % (95 %: 42.3–75.4), round 4, lowest validation loss"
    assert lines["client accuracy"] == (
        "60.0 % (95 %: 0.0–100.0), 100 images of 3 clients; chance 33.3 %, majority class 20.0 %"
    )
    assert lines["  worst client"] == "30.0 %"
    assert lines["  never sampled"] == "10.0 %, 1 client, not in the figures above"
    assert next(iter(lines)) == "test accuracy"


def test_with_a_personalisation_the_models_that_clients_use_come_first(tmp_path: Path) -> None:
    metrics, run = metrics_of(tmp_path, shared_accuracy=0.5, malicious=2, malicious_accuracy=0.05)
    lines = result_lines(metrics, run, personal=True)
    assert next(iter(lines)) == "client accuracy"
    assert lines["client accuracy"].endswith("majority class of each client 40.0 %")
    assert lines["  of the shared model"] == "50.0 % (no client uses it)"
    assert lines["  malicious"] == "5.0 %, 2 clients, not in the figures above"
    assert lines["test accuracy"].endswith("(of the shared model, which no client uses)")


def test_where_there_is_no_whole_shared_model_nothing_is_said_of_it(tmp_path: Path) -> None:
    metrics, run = metrics_of(tmp_path)
    lines = result_lines([{**line, "test": None} for line in metrics], run, personal=True)
    assert not [name for name in lines if "test" in name or "best" in name]


def test_the_worst_tenth_of_ten_clients_and_more(tmp_path: Path) -> None:
    assert "  worst tenth of clients" in result_lines(*metrics_of(tmp_path, evaluated=10))


def test_runs_of_earlier_versions_have_no_interval_and_no_floor() -> None:
    assert with_interval({"accuracy": 0.5}) == "50.0 %"
    assert in_full({"accuracy": 0.5, "examples": 1000}) == "50.0 %, 1,000 images"
    assert in_full({}) == "–"


def test_a_model_of_images_and_texts_says_how_it_does_with_either(tmp_path: Path) -> None:
    metrics, run = metrics_of(tmp_path)
    assert not any("alone" in label for label in result_lines(metrics, run))
    metrics[0]["measures"] = {"modality/image_only": 0.1, "zero_shot/held_out": 0.4}
    metrics[2]["measures"] = {"modality/image_only": 0.725, "modality/text_only": 0.5}
    lines = result_lines(metrics, run)
    assert lines["  by images alone"] == "72.5 %"
    assert lines["  by texts alone"] == "50.0 %"
    assert lines["  held-out classes, by name"] == "40.0 %"
    assert "  found by text in first 10" not in lines
