"""Sums of clipped gradients of images without the gradients of linear layers, against one image at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from tests.helpers import CPU
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.training.flat import FlatModel
from fedlens.training.ghost_clipping import Layer
from fedlens.training.image_gradients import ImageGradients

CLIP = 0.5
WIDE = 48


class Tokens(nn.Module):
    """(B, 1, 8, 8) → four tokens of 16 numbers → two wide layers → 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, WIDE)
        self.second = nn.Linear(WIDE, WIDE)
        self.last = nn.Linear(WIDE, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.reshape(len(images), 4, 16)
        return self.last(self.mixed(torch.tanh(self.first(tokens))).mean(1))

    def mixed(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.second(tokens))


class Twice(Tokens):
    def mixed(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.second(tokens))))


class Elsewhere(Tokens):
    """Uses the weight of a layer beside calling it: what its inputs tell is a part of the gradient."""

    def mixed(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.second(tokens) + F.linear(tokens, self.second.weight))


class Tied(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Linear(WIDE, WIDE)
        self.third.weight = self.second.weight

    def mixed(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.third(super().mixed(tokens)))


class Flattened(Tokens):
    """Tokens as rows of a batch of their own."""

    def mixed(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.second(tokens.flatten(0, 1))).reshape(tokens.shape)


def with_a_zero_head(network: type[Tokens]) -> Callable[[], nn.Module]:
    """As a new head begins: every gradient but its own is zero."""

    def begun() -> nn.Module:
        module = network()
        nn.init.zeros_(module.last.weight)
        return module

    return begun


def made(network: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return network()


def batch(size: int = 6, side: int = 8, channels: int = 1) -> tuple[Tensor, Tensor]:
    scale = torch.logspace(-1, 0.5, size)[:, None, None, None]
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, channels, side, side, generator=generator) * scale, torch.arange(size) % 3


def one_by_one(module: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(value) for name, value in module.named_parameters()}
    factors = []
    for image, label in zip(inputs, labels, strict=True):
        module.zero_grad()
        F.cross_entropy(module(image[None]), label[None]).backward()
        found = {name: value.grad.clone() for name, value in module.named_parameters()}
        factors.append(min(1.0, CLIP / float(torch.cat([value.flatten() for value in found.values()]).norm())))
        for name, value in found.items():
            total[name] += value * factors[-1]
    assert min(factors) < 1
    return total


def both(network: Callable[[], nn.Module], inputs: Tensor, labels: Tensor) -> set[str]:
    """Compares; gives the layers whose gradients were not computed."""
    model = FlatModel(made(network), CPU)
    model.train()
    gradients = ImageGradients(model, clip=CLIP)
    gradients.add_clipped(inputs, labels)
    found = model.unflatten(model.gradient.clone())
    for name, value in one_by_one(made(network), inputs, labels).items():
        assert torch.allclose(found[name], value, atol=1e-5), name
    return {one.name for one in gradients._layers}


@pytest.mark.parametrize(
    ("network", "ghosts"),
    [
        (Tokens, {"first", "second", "last"}),
        (Twice, {"first", "second", "last"}),
        (Flattened, {"first", "second", "last"}),
        (Elsewhere, {"first", "last"}),
        (Tied, {"first", "last"}),
        (with_a_zero_head(Tokens), {"first", "second", "last"}),
        (with_a_zero_head(Elsewhere), {"first", "last"}),
    ],
)
def test_the_sums_are_those_of_images_that_were_clipped_one_by_one(network, ghosts: set[str]):
    assert both(network, *batch()) == ghosts


def test_a_vision_transformer():
    """Of 5 tokens: 5² (192 + 192) is less than 8 · 192 · 192, and so on."""
    network = lambda: timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2)  # noqa: E731
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    expected = {f"blocks.{number}.{layer}" for number in (0, 1) for layer in layers}
    assert both(network, *batch(4, 32, 3)) == {"head", *expected}


def test_an_image_that_is_not_finite_counts_nothing():
    inputs, labels = batch()
    model = FlatModel(made(Tokens), CPU)
    gradients = ImageGradients(model, clip=CLIP)
    gradients.add_clipped(inputs[1:], labels[1:])
    expected = model.gradient.clone()
    inputs[0] = torch.nan
    gradients.add_clipped(inputs, labels)
    assert torch.allclose(model.gradient, expected, atol=1e-6)


def test_the_norm_is_exact_where_positions_nearly_cancel():
    """Two positions with opposite gradients of 1e3 on inputs that differ by 1e-3: in float32 the sum of products, each
    about 1e6, would say 0."""
    a = torch.tensor([[[1.0, 0.0], [1.0, 1e-3]]])
    g = torch.tensor([[[1e3], [-1e3]]])
    assert float(Layer(a, g).norms()) == pytest.approx(1.0, rel=1e-4)


def test_where_positions_are_many_gradients_are_computed():
    """64 positions: 64² (48 + 48) is more than 8 · 48 · 48."""

    class Many(Tokens):
        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.mixed(torch.tanh(self.first(images.reshape(len(images), 64, 16)))).mean(1))

    assert both(Many, *batch(3, 32)) == {"last"}
