"""`fedlens models` and `fedlens models fetch`."""

from __future__ import annotations

import pytest
from tests.problems import refuses
from typer.testing import CliRunner

from fedlens.cli.models import app
from fedlens.errors import ModelError
from fedlens.models.base import models


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "160"})


def test_lists_every_model_with_its_purpose_and_weights():
    output = run().output
    for entry in models.entries():
        assert f"  {entry.name} " in output
    prefix = "published weights, "
    lines = [line.removeprefix(prefix) for line in output.splitlines() if line.startswith(prefix)]
    weights = dict(line.split(": ") for line in lines)
    assert "lenet" in weights["none"]
    assert "resnet18" in weights["download"]
    assert "efficientnet_lite0" in weights["in the install"]


def test_one_model_has_its_keys_and_weights():
    output = run("mobilenetv3").output
    assert "model.variant  one of small, large" in output
    assert "fedlens run model.name=mobilenetv3" in output
    assert "published weights: download" in output
    with refuses(("unknown_name", "model.name")):
        run("resnet5")


def test_fetch_copies_packaged_weights(tmp_path):
    result = run("fetch", "efficientnet_lite0", "--to", str(tmp_path))

    file = tmp_path / "efficientnet-lite0-57934424.pth"
    assert file.stat().st_size > 10_000_000
    assert str(file) in result.output


def test_fetch_passes_the_models_own_keys(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "fedlens.models.weights.TorchvisionWeights.fetch", lambda self, to: asked.append((self.model, to))
    )

    run("fetch", "mobilenetv3", "variant=large")

    assert asked == [("mobilenetv3 variant=large", None)]


def test_fetch_says_what_cannot_be():
    with pytest.raises(ModelError, match="lenet has no published weights"):
        run("fetch", "lenet")
    with refuses(("syntax", "large")):
        run("fetch", "mobilenetv3", "large")
