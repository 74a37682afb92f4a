"""Commands to try: the configuration of the run takes them, and they change something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tests.explain.rounds import CONFIG

from fedlens.explain.evidence import Evidence
from fedlens.explain.proposals import workable
from fedlens.tracking.findings import Finding
from fedlens.tracking.next_steps import commands
from fedlens.tracking.run_dir import RunDir


def left(tmp_path: Path, *changes: dict[str, str], **sections) -> list[dict[str, str]]:
    config = {**CONFIG, "model": {"name": "lenet"}, "optimizer": {"name": "sgd", "lr": 0.1}, **sections}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    finding = Finding("one", "says", "evidence", 1.0, changes=changes)
    return [dict(one) for one in workable([finding], Evidence(config, [], {}), file)[0].changes]


def test_what_the_configuration_refuses_is_left_out(tmp_path: Path) -> None:
    scaffold, fedprox = {"strategy.name": "scaffold"}, {"strategy.name": "fedprox"}
    assert left(tmp_path, scaffold, fedprox) == [scaffold, fedprox]
    assert left(tmp_path, scaffold, fedprox, optimizer={"name": "adamw", "lr": 0.01}) == [fedprox]
    late = {"federated.over_selection": "0.3"}
    assert left(tmp_path, late) == [], "nobody is late without a clock"
    assert left(tmp_path, late, clock={"name": "lognormal"}) == [late]


def test_what_is_there_already_is_left_out(tmp_path: Path) -> None:
    assert left(tmp_path, {"optimizer.lr": "0.1"}, {"optimizer.lr": "0.01"}) == [{"optimizer.lr": "0.01"}]
    assert left(tmp_path, {"data.validation": "0.2"}, data={"validation": 0.2}) == []


@pytest.mark.parametrize("sections", [{"plugins": ["gone.py"]}, {"data": {"source": "python"}}])
def test_what_cannot_be_checked_stays(tmp_path: Path, sections: dict) -> None:
    scaffold = {"strategy.name": "scaffold"}
    assert left(tmp_path, scaffold, optimizer={"name": "adamw", "lr": 0.01}, **sections) == [scaffold]


def test_a_python_program_resumes_with_an_override_in_the_call(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "run")
    run.config.write_text("data: {source: python}\n")
    finding = replace(Finding("one", "says", "evidence", 1.0), rounds=12)
    (command,) = finding.commands(commands("", str(run.path), "fedlens resume"))
    assert command == f"fedlens.resume('{run.path}', 'federated.num_rounds=12', data=…)"
