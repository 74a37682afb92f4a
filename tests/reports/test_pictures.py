"""The test images of a report, from a real run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from tests.fake_runs import write_run

import fedlens
from fedlens.core.files import read_json, write_json
from fedlens.errors import FedLensError
from fedlens.reports.html import write_report
from fedlens.tracking.run_dir import RunDir

QUICK = (
    "data.source=sample", "model.name=lenet", "federated.num_rounds=1", "federated.fraction_fit=0.2",
    "federated.evaluate_clients_every=0", "runtime.name=in_process", "tracking.tensorboard=false",
)  # fmt: skip


def finished(base: Path, *settings: str) -> RunDir:
    fedlens.run(None, *QUICK, f"tracking.dir={base}", *settings, show=False)
    return RunDir(next(base.iterdir()))


def shown(run: RunDir) -> str:
    return run.report.read_text(encoding="utf-8")


def test_a_run_shows_pictures_behind_the_cells_of_its_matrix(tmp_path: Path) -> None:
    run = finished(tmp_path)
    page = shown(run)
    embedded = re.search(r'<script type="application/json" id="pictures">(.*?)</script>', page, re.S)
    assert embedded
    found = json.loads(embedded[1])
    assert found == read_json(run.pictures)
    names, matrix = read_json(run.partition)["class_names"], read_json(run.confusion)["test"]
    assert found["tested"] == sum(map(sum, matrix))
    for cell in found["cells"]:  # every picture is of a kind that the matrix has counted
        assert matrix[names.index(cell["true"])][names.index(cell["predicted"])] >= len(cell["numbers"]) > 0
    assert len(found["mistakes"]) == len(found["hits"]) == 12
    assert len(run.pictures.read_bytes()) < 2_200_000


@pytest.mark.parametrize("setting", ["tracking.pictures=false", "personalization.name=fedper", "tracking.report=false"])
def test_no_pictures(setting: str, tmp_path: Path) -> None:
    run = finished(tmp_path, setting)
    assert not run.pictures.exists()
    assert not run.report.exists() or 'id="pictures"' not in shown(run)


def test_no_pictures_without_a_test_set(tmp_path: Path) -> None:
    """What clients hold is never shown."""
    for number in range(40):
        file = tmp_path / f"data/client{number % 2}/{'cat' if number % 4 < 2 else 'dog'}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), 6 * number).save(file)
    own = (f"data.path={tmp_path}/data", "data.source=auto", "federated.fraction_fit=1", "data.test=0")
    assert not finished(tmp_path / "logs", *own).pictures.exists()


ELSEWHERE = {"image": "https://elsewhere/a.png", "true": "a", "predicted": "a", "confidence": 1}
FOREIGN = {"tested": 1, "pictures": [ELSEWHERE], "mistakes": [0], "hits": [], "cells": []}


@pytest.mark.parametrize("broken", [{"pictures": 3}, FOREIGN])
def test_a_damaged_file_is_named(broken: object, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_json(run.pictures, broken)
    with pytest.raises(FedLensError, match=r"pictures\.json"):
        write_report(run.path)


def test_names_cannot_leave_the_script(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    name = "</script><script>window.broken=1</script>"
    one = {"image": "data:image/png;base64,AAAA", "true": name, "predicted": "b", "confidence": 0.5}
    cells = [{"true": name, "predicted": "b", "numbers": [0]}]
    write_json(run.pictures, {"tested": 1, "pictures": [one], "mistakes": [0], "hits": [], "cells": cells})
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "<script>window.broken" not in page
