"""The recipes of docs/reproductions.md in short, on the pictures that ship with FedLens: the order of the methods."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedlens

CONFIGS = Path(__file__).parents[1] / "configs"
QUIET = ("tracking.tensorboard=false", "tracking.report=false")


def last(folder: Path, recipe: str, metric: str, *overrides: str) -> float:
    """The last round's figure of a recipe with the sample in place of Fashion-MNIST."""
    place = ("data.source=sample", f"tracking.dir={folder}", *QUIET)
    run = fedlens.run(str(CONFIGS / recipe), *place, *overrides, show=False)
    return float(run.metrics[metric].iloc[-1])


@pytest.mark.slow
def test_scaffold_is_ahead_of_fedavg_where_parties_differ(tmp_path: Path) -> None:
    short = ("federated.num_rounds=6", "federated.local_epochs=3")
    found = {
        name: last(tmp_path, "niid-bench/dirichlet.yaml", "test.accuracy", *short, f"strategy.name={name}")
        for name in ("fedavg", "scaffold")
    }
    assert found["scaffold"] > found["fedavg"] + 0.1, found


@pytest.mark.full
def test_models_of_ones_own_are_ahead_of_a_shared_one_at_home(tmp_path: Path) -> None:
    short = ("federated.num_rounds=4", "federated.evaluate_every=0")
    found = {
        name: last(tmp_path, "pfllib/dirichlet.yaml", "clients.accuracy", *short, f"personalization.name={name}")
        for name in ("none", "fedper", "ditto")
    }
    assert min(found["fedper"], found["ditto"]) > found["none"] + 0.3, found
