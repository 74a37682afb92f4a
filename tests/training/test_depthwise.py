"""Gradients of depthwise convolutions as PyTorch has them, but for rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedlens.training import depthwise
from fedlens.training.depthwise import large_depthwise, quick_gradients, weight_gradient


def gradients(layer: nn.Conv2d, images: Tensor, quick: bool) -> tuple[Tensor, Tensor, Tensor]:
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    with quick_gradients([layer] if quick else []):
        found = layer(images)
    (found * torch.linspace(-1, 2, found.numel()).view_as(found)).sum().backward()
    assert images.grad is not None
    assert layer.weight.grad is not None
    return found.detach(), images.grad, layer.weight.grad.clone()


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [(3, 5, 1, 2), (6, 5, 2, 2), (7, 7, 1, 3), (6, 5, 1, 0), (5, 5, 3, 4), (1, 5, 1, 2), (8, (5, 7), (2, 1), (1, 3))],
)
def test_gradients_are_those_of_pytorch(side, kernel, stride, padding, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, kernel, stride, padding, groups=4, bias=False)
    images = torch.randn(3, 4, side, side).contiguous(memory_format=torch.channels_last)
    plain = gradients(layer, images, quick=False)
    seen = []
    monkeypatch.setattr(depthwise, "weight_gradient", lambda *given: seen.append(1) or weight_gradient(*given))
    torch.testing.assert_close(gradients(layer, images, quick=True), plain)
    assert seen


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [6, 12])
def test_it_is_for_few_pixels_in_the_layout_that_is_quick(layout, side, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False)
    images = torch.randn(2, 4, side, side).contiguous(memory_format=layout)
    seen = []
    monkeypatch.setattr(depthwise, "weight_gradient", lambda *given: seen.append(1) or weight_gradient(*given))
    torch.testing.assert_close(gradients(layer, images, quick=True), gradients(layer, images, quick=False))
    assert bool(seen) is (side == 6 and layout == torch.channels_last)


def test_only_such_layers_are_found_and_they_stay_as_they_are() -> None:
    wanted = nn.Conv2d(4, 4, 5, groups=4, bias=False)
    others = nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(4, 4, 5, bias=False), nn.Conv2d(4, 4, 5, groups=4)
    module = nn.Sequential(wanted, *others)
    assert large_depthwise(module) == [wanted]
    before = dict(vars(wanted))
    with pytest.raises(RuntimeError, match="stop"), quick_gradients(large_depthwise(module)):
        raise RuntimeError("stop")
    assert vars(wanted) == before


def test_under_autocast_and_with_frozen_weights_it_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False)
    images = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    monkeypatch.setattr(depthwise, "weight_gradient", lambda *_: pytest.fail("it was used"))
    with quick_gradients([layer]), torch.autocast("cpu", torch.bfloat16):
        layer(images).float().sum().backward()
    layer.weight.requires_grad_(False)
    with quick_gradients([layer]):
        layer(images).sum().backward()
