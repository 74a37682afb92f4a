"""The schema that editors use."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from fedlens.build.load import load
from fedlens.config.json_schema import schema, schema_text

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def validator():
    document = schema()
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def test_the_shipped_schema_is_up_to_date():
    shipped = (ROOT / "config.schema.json").read_text(encoding="utf-8")
    assert shipped == schema_text(), "write it again: fedlens config schema --out config.schema.json"


CONFIGURATIONS = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*(ROOT / "configs" / "results").glob("*.yaml")})
"""Those in results are sweeps: tests/test_results.py makes all of their points."""


@pytest.mark.parametrize("path", [ROOT / "config.yaml", *CONFIGURATIONS], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_configurations_of_the_repository_fit(validator, path):
    load(path)
    validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=")


@pytest.mark.parametrize(
    "good",
    [
        {"strategy": {"name": "fedprox", "mu": 0.1}},
        {"model": {"name": "timm:resnet10t"}},
        {"data": {"partition": {"scheme": "dirichlet", "alpha": 0.3}}},
        {"federated": {"fraction_fit": 0.8}},
    ],
)
def test_what_loads_is_valid(validator, good):
    loaded = load(None, (), good).model_dump()
    assert loaded == merged(loaded, good)  # all of it has arrived
    assert validator.is_valid(good)


def merged(tree, other):
    if not isinstance(other, dict):
        return other
    return tree | {key: merged(tree[key], value) for key, value in other.items()}


@pytest.mark.parametrize(
    "bad",
    [
        {"strategy": {"name": "fedprx"}},
        {"strategy": {"name": "fedprox", "mu": -1}},
        {"strategy": {"nam": "fedprox"}},
        {"model": {"name": "mobilnet"}},
        {"federated": {"fraction_fit": 1.5}},
        {"federated": {"num_round": 1}},
        {"lr": 0.1},
    ],
)
def test_mistakes_are_marked(validator, bad):
    assert not validator.is_valid(bad)
