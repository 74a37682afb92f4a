"""The recipes in configs/: they load, say what to expect, and the solar plants get what was promised."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fedlens.build.builders import build_scheme
from fedlens.build.load import load
from fedlens.data.division import Columns, DivisionPlan, divide
from fedlens.data.sources.elpv import ELPV

ROOT = Path(__file__).parents[1]
RECIPES = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*(ROOT / "configs" / "results").iterdir()})
"""Without the sweeps, which tests/test_results.py looks at."""
SOLAR = ROOT / "configs" / "solar-inspection.yaml"


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_recipe_loads_and_states_its_command_time_and_figure(file: Path) -> None:
    load(file)
    header = file.read_text(encoding="utf-8").split("\n\n")[0]
    assert f"fedlens run {file.relative_to(ROOT)}" in header
    assert re.search(r"Time: .*(second|minute)", header)
    assert re.search(r"Expect: .*\d %", header)


@pytest.mark.parametrize("seed", range(4))
def test_a_quarter_of_every_solar_plant_is_held_out(seed: int, tmp_path: Path) -> None:
    config, table = load(SOLAR, [f"seed={seed}"]), ELPV().load()
    data = config.data
    plan = DivisionPlan(build_scheme(config), 10, data.validation, data.client_test, data.test, config.seed)
    division = divide(Columns.of(table, np.arange(len(table.labels))), plan)
    trained = np.concatenate([client.train for client in division.clients])
    tested = np.concatenate([division.test, *(client.test for client in division.clients)])
    assert len(division.clients) == 10
    assert np.array_equal(np.sort(np.concatenate([trained, tested])), np.arange(2624))
    assert len(tested) / 2624 == pytest.approx(0.25, abs=0.002)
    for client in division.clients:
        cells = int((table.clients == client.name).sum())
        assert 0.6 < len(client.train) / cells < 0.9
        assert len(client.test)


@pytest.mark.full
def test_the_solar_plants_reach_what_the_recipe_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed of benchmarks/solar.py, whose smallest work is a slow test. A figure moves by some 1.5 points with the
    seed: 656 cells are held out."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    spec = importlib.util.spec_from_file_location("solar", ROOT / "benchmarks" / "solar.py")
    assert spec and spec.loader
    solar = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(solar)
    found = solar.one_seed(0)
    assert found["majority"] == pytest.approx(0.687, abs=0.005)
    assert 0.78 < found["fedavg"] < 0.86
    assert found["fedavg_reported"] == pytest.approx(found["fedavg"], abs=0.05)
    assert found["central"] > found["fedavg"] - 0.01
    assert found["alone_home"] > found["fedavg"]
    assert found["alone_everywhere"] < found["majority"]
    assert {plant["held_out"] > 0 for plant in found["plants"].values()} == {True}
