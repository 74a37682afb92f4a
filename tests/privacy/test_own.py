"""A tutorial's function, plugged in as it is."""

from __future__ import annotations

import pytest
import torch
from tests.problems import refuses
from tests.runs import run

import fedlens

NOISE = """
import numpy as np

def add_dp_noise(parameters, noise_scale):
    return [p + noise_scale * np.ones(p.shape) for p in parameters]

def shorter(parameters, noise_scale):
    return parameters[1:]

def fails(parameters, noise_scale):
    raise ZeroDivisionError("no noise today")
"""

FEW = ("runtime.name=in_process", "federated.num_rounds=1", "federated.fraction_fit=1", "privacy.mode=own")


@pytest.fixture
def plugin(tmp_path):
    file = tmp_path / "tutorial.py"
    file.write_text(NOISE)
    return f"plugins=[{file}]"


def test_the_function_changes_what_is_sent_and_nothing_is_claimed(tmp_path, plugin, capsys):
    plain = run(tmp_path / "plain", *FEW[:-1])
    noised = fedlens.run(
        None, "model.name=lenet", "optimizer.lr=0.05", *FEW, plugin, "privacy.function=tutorial.add_dp_noise",
        "privacy.noise_scale=0.25", f"tracking.dir={tmp_path}", "tracking.tensorboard=false", "tracking.report=false",
    )  # fmt: skip
    for one, other in zip(plain.model.parameters(), noised.model.parameters(), strict=True):
        assert torch.allclose(other - one, torch.full_like(one, 0.25), atol=1e-4)
    said = capsys.readouterr().out
    assert "privacy   NO claim: tutorial.add_dp_noise changes updates, but nothing is clipped" in said
    assert "ε" not in said


@pytest.mark.parametrize(
    ("code", "function", "line"),
    [
        ("unknown_name", "tutorial.gone", "there is no function gone in a plugin tutorial.py"),
        ("unknown_name", "os.system", "there is no function system in a plugin os.py"),
        ("plugin_failed", "tutorial.shorter", "of other number or shapes than the"),
        ("plugin_failed", "tutorial.fails", "ZeroDivisionError: no noise today"),
    ],
)
def test_what_is_no_such_function(tmp_path, plugin, code, function, line):
    with refuses((code, "privacy.function")) as caught:
        run(tmp_path, *FEW, plugin, f"privacy.function={function}")
    assert line in str(caught.value)
