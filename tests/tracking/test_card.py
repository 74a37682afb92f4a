"""A run as a cell of a notebook shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.fake_runs import write_run

import fedlens
from fedlens.tracking.card import card


def test_headline_curve_and_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "my logs").path
    (folder / "report.html").touch()
    monkeypatch.chdir(tmp_path)
    text = fedlens.load_run(folder)._repr_html_()
    assert "fedavg · lenet · finished: all rounds done" in text
    assert re.search(r">test accuracy</td><td[^>]*>80\.0 % \(95 %: ", text)
    assert re.search(r">client accuracy</td><td[^>]*>60\.0 % ", text)  # the mean that fake_runs.py works out
    assert text.count("<img") == 1
    links = re.findall(r'href="([^"]+)"', text)
    assert links == [f"my%20logs/{folder.name}/{name}" for name in ("report.html", "metrics.jsonl", "config.yaml")]


def test_files_outside_the_notebook_s_folder_have_a_whole_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "logs").path
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert f'href="{(folder / "metrics.jsonl").as_uri()}"' in card(folder, [])


def test_a_run_that_has_not_ended(tmp_path: Path) -> None:
    assert "3 of 6 rounds done" in card(write_run(tmp_path, "a", rounds=3).path, [])
    begun = card(write_run(tmp_path, "b", rounds=0).path, [])
    assert "0 of 6 rounds done" in begun
    assert "<img" not in begun


def test_no_text_of_a_run_is_markup(tmp_path: Path) -> None:
    run = write_run(tmp_path, "run", strategy="<script>broken</script>")
    run.finish("<b>ended</b>")
    text = fedlens.load_run(run.path)._repr_html_()
    assert "<script" not in text
    assert "<b>ended" not in text
    assert "&lt;script&gt;broken" in text


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metrics.jsonl", "<i>\n", "metrics.jsonl, line 1: not JSON"),
        ("config.yaml", "model: 3\n", "do not have the form of a run"),
        ("result.json", "[]", "result.json"),
    ],
)
def test_a_damaged_run_is_one_line_that_names_the_file(tmp_path: Path, name: str, content: str, told: str) -> None:
    run = write_run(tmp_path)
    (run.path / name).write_text(content)
    text = fedlens.load_run(run.path)._repr_html_()
    assert told in text
    assert text.count("<p>") == 1
    assert "<i>" not in text


def test_a_run_whose_folder_is_gone_says_so(tmp_path: Path) -> None:
    assert "does not exist" in fedlens.Run(tmp_path / "gone")._repr_html_()


def test_the_short_form_of_a_run_names_its_folder_alone(tmp_path: Path) -> None:
    assert repr(fedlens.Run(tmp_path, trained=object())) == f"Run(folder={tmp_path!r})"
