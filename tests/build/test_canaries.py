"""The model with which DP-SGD is audited."""

from __future__ import annotations

import torch
from tests.helpers import CPU

from fedlens.build.canaries import _Parts
from fedlens.training.flat import FlatModel
from fedlens.training.image_gradients import ImageGradients


def test_half_of_its_maps_are_ghost_layers_and_half_are_not() -> None:
    model = FlatModel(_Parts(), CPU)
    gradients = ImageGradients(model, clip=1.0)
    gradients.add_clipped(torch.ones(2, 4, 2), torch.zeros(2, dtype=torch.long))
    assert [one.weight for one in gradients._layers] == ["layers.0.weight", "layers.1.weight"]
    assert len(model.names) == 4
