"""Layers in another form give what PyTorch's give."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from tests.helpers import CPU
from tests.training.test_vectorized import network, trained, trainer
from torch.func import vmap
from torch.nn import functional as F

from fedlens.training import batched_layers, vectorized

GPU = torch.device("cuda")
"""Its layers have their form on the CPU, too."""

WAYS = {
    "plain": {},
    "padded": {"padding": 1},
    "oblong": {"padding": (2, 0), "stride": (1, 2)},
    "strided": {"stride": 2, "padding": (1, 1)},
    "same": {"padding": "same"},
    "dilated": {"dilation": 2},
    "grouped": {"groups": 2},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients(way: dict, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 4, 2, 9, 8, generator=generator)
    weight = torch.randn(3, 6, 2 // way.get("groups", 1), 3, 1, generator=generator)
    bias = torch.randn(3, 6, generator=generator) if with_bias else None
    found = []
    for how in (nullcontext(), batched_layers.batched_layers(GPU)):
        given = [value.clone().requires_grad_() for value in (images, weight, bias) if value is not None]
        with how:
            outputs = vmap(lambda *own: F.conv2d(*own, **way))(*given)
        outputs.square().sum().backward()
        found.append([outputs, *(value.grad for value in given)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_large_ones_stay_as_they_are(monkeypatch) -> None:
    images, weight = torch.rand(2, 1, 5, 5), torch.rand(1, 1, 3, 3)
    products: list[int] = []
    flatten = torch.Tensor.flatten
    monkeypatch.setattr(torch.Tensor, "flatten", lambda *given: (products.append(1), flatten(*given))[1])
    with batched_layers.batched_layers(GPU):
        F.conv2d(images, weight)
        assert len(products) == 1
        monkeypatch.setattr(batched_layers, "LARGEST", 2 * 9 * 9 - 1)
        F.conv2d(images, weight)
    assert len(products) == 1


def test_the_device_decides() -> None:
    assert torch.conv2d in batched_layers.batched_layers(GPU)._replaced
    assert torch.conv2d not in batched_layers.batched_layers(CPU)._replaced


@pytest.mark.parametrize("size", [1, (1, 1), (2, 1), (None, 2)])
def test_pooling_has_a_batched_form(size) -> None:
    """In any memory format; without a warning that clients are computed one by one, which would be an error here."""
    images = torch.rand(3, 4, 2, 6, 6).transpose(2, 4)
    with batched_layers.batched_layers(CPU):
        found = vmap(lambda own: F.adaptive_avg_pool2d(own, size))(images)
    torch.testing.assert_close(found, torch.stack([F.adaptive_avg_pool2d(own, size) for own in images]))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_training_is_the_same(norm: str, tmp_path, monkeypatch) -> None:
    """As on a GPU."""
    alone = trained(trainer(tmp_path, vectorize=3, model=network(norm)), rounds=1)
    on_a_gpu = batched_layers.batched_layers
    monkeypatch.setattr(vectorized, "batched_layers", lambda _device: on_a_gpu(GPU))
    one = trainer(tmp_path, vectorize=3, model=network(norm))
    assert one.vectorizing.obstacle is None
    for client, outcome in trained(one, rounds=1).items():
        for name, value in outcome.payload.items():
            torch.testing.assert_close(value, alone[client].payload[name], rtol=1e-3, atol=1e-5)
