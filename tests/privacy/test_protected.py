"""What leaves a client in the modes that protect: nothing beside a bounded or noisy update of weight 1."""

from __future__ import annotations

import pytest
import torch
from tests.problems import refuses_with

from fedlens.core.types import MeanMetric
from fedlens.privacy.base import LEAVES, Federation, privacy_modes
from fedlens.privacy.protected import ProtectedUpdate
from fedlens.strategies.base import ClientUpdate
from fedlens.transforms.base import EncodingContext

CTX = EncodingContext(1, "a", frozenset({"w"}), {}, 0, 0)
PAYLOAD = {"w": torch.ones(4)}
MODES = [name for name in privacy_modes.names() if privacy_modes.get(name).factory.protects]


def transform(mode: str) -> ProtectedUpdate:
    made = privacy_modes.get(mode).build({}).transform(Federation(10, 3, 1.0))
    assert isinstance(made, ProtectedUpdate)
    return made


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beside", [{"extra": {"control": torch.ones(4)}}, {"part_weights": {"control": 1.0}}])
def test_a_strategy_that_sends_more_than_an_update_is_refused(mode: str, beside) -> None:
    """Such as one of a plugin, which does not say so in its class."""
    with refuses_with("contradiction", "strategy.name: this strategy sends 'control' beside its update"):
        transform(mode).encode(ClientUpdate(PAYLOAD, 5.0, **beside), CTX)


@pytest.mark.parametrize("mode", MODES)
def test_numbers_of_images_and_losses_stay_at_the_client(mode: str) -> None:
    protecting = transform(mode)
    assert protecting.encode(ClientUpdate(PAYLOAD, 5.0), CTX).update.weight == 1.0
    assert set(protecting.released(dict.fromkeys((*LEAVES, "loss", "accuracy"), MeanMetric(1, 1)))) == set(LEAVES)
