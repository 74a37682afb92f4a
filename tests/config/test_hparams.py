"""What TensorBoard's HParams page has of a configuration."""

from __future__ import annotations

import pytest

from fedlens.build.load import load
from fedlens.tracking.hyper_parameters import hyper_parameters


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {}),
        (["strategy.name=fedprox", "strategy.mu=0.5"], {"strategy.mu": 0.5}),
        (["optimizer.lr=0.3", "data.partition.seed=4"], {"optimizer.lr": 0.3, "data.partition.seed": 4}),
        (["tracking.dir=elsewhere", "runtime.workers=2"], {}),
    ],
)
def test_only_what_differs_from_the_defaults(given: list[str], expected: dict[str, object]) -> None:
    found = hyper_parameters(load(None, ["seed=3", *given]))
    assert list(found)[:2] == ["strategy.name", "seed"]
    assert found == {"strategy.name": "fedprox" if "mu" in str(given) else "fedavg", "seed": 3, **expected}


def test_a_blocks_parameters_at_their_defaults_are_left_out() -> None:
    plain = load(None, ["strategy.name=fedprox"])
    assert "mu" in plain.strategy.parameters  # it is filled in
    assert hyper_parameters(plain) == {"strategy.name": "fedprox", "seed": 0}
