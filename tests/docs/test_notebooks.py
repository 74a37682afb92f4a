"""Notebooks are kept without outputs, say what they show and how long it takes, and run from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from tests.docs.snippets import ROOT

from fedlens.tracking.run_dir import find_runs

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BY_NAME = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
WORDS_A_MINUTE = 200


def test_these_are_the_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {
        "quick_start", "your_own_photographs", "write_your_own_strategy", "non_iid_data", "personalised_solar_cells",
        "between_processes", "privacy_against_accuracy", "images_and_texts",
    }  # fmt: skip


@BY_NAME
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


@BY_NAME
def test_a_notebook_opens_with_what_it_shows_and_how_long_it_takes(path: Path) -> None:
    first, *others = nbformat.read(path, as_version=4).cells
    assert first.cell_type == "markdown"
    assert re.match(r"# .+\n\n.+", first.source)
    assert re.search(r"\*\*Time:\*\* 5 minutes to read, .+ to run on two cores", first.source)
    words = sum(len(cell.source.split()) for cell in (first, *others))
    assert words <= 5 * WORDS_A_MINUTE
    assert max(len(line) for cell in (first, *others) for line in cell.source.splitlines()) <= 130


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")  # Jupyter's own event loop and sockets
@BY_NAME
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert find_runs(tmp_path / "logs")
    pages = ["".join(output["data"]["text/html"]) for output in outputs if "text/html" in output.get("data", {})]
    assert any("finished: all" in page and "data:image/svg+xml" in page for page in pages), "no run showed its result"
    assert not any("if it is stopped, resume it" in page for page in pages), "a run left its live curve behind"
    lines = sum(str(output.get("text", "")).count("\n") for output in outputs)
    assert lines < 60, "the notebook fills up with lines"
    assert not any(output.get("name") == "stderr" for output in outputs), "a warning is shown to the reader"
