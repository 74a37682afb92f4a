"""Clipped sums of the gradients of single images, against one image at a time, and against Opacus."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from tests.helpers import CPU
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.training.flat import FlatModel
from fedlens.training.image_gradients import ImageGradients, batch_layer

CLIP = 7.0


def network(norm: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), norm or nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)
    )  # fmt: skip


def batch(size: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    scale = torch.logspace(-2, 1, size)[:, None, None, None]  # some gradients are shorter than the clip
    return torch.randn(size, 1, 8, 8, generator=generator) * scale, torch.arange(size) % 3


def clipped_sum(inputs: Tensor, labels: Tensor, module: nn.Module | None = None, **options) -> dict[str, Tensor]:
    model = FlatModel(module or network(), CPU)
    model.train()
    ImageGradients(model, clip=CLIP, **options).add_clipped(inputs, labels)
    return model.unflatten(model.gradient.clone())


def one_by_one(inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    module = network()
    total = {name: torch.zeros_like(value) for name, value in module.named_parameters()}
    norms = []
    for image, label in zip(inputs, labels, strict=True):
        module.zero_grad()
        F.cross_entropy(module(image[None]), label[None]).backward()
        found = {name: value.grad.clone() for name, value in module.named_parameters()}
        norms.append(torch.cat([value.flatten() for value in found.values()]).norm())
        for name, value in found.items():
            total[name] += value * min(1.0, CLIP / float(norms[-1]))
    assert min(norms) < CLIP < max(norms)
    return total


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=1e-5), name


def test_they_are_the_sums_of_images_that_were_clipped_one_by_one():
    close(clipped_sum(*batch()), one_by_one(*batch()))


@pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning")
def test_they_are_those_of_opacus():
    inputs, labels = batch()
    module = GradSampleModule(network(), loss_reduction="sum")
    plain = torch.optim.SGD(module.parameters(), lr=1.0)
    private = DPOptimizer(plain, noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=1)
    F.cross_entropy(module(inputs), labels, reduction="sum").backward()
    private.pre_step()
    theirs = {name.removeprefix("_module."): value.grad for name, value in module.named_parameters()}
    close(clipped_sum(inputs, labels), theirs)


@pytest.mark.parametrize("piece", [1, 3, 7, 100])
def test_pieces_of_a_batch_give_the_same(piece: int):
    close(clipped_sum(*batch(), piece=piece), clipped_sum(*batch()))


def test_memory_bounds_the_pieces(monkeypatch: pytest.MonkeyPatch):
    whole = clipped_sum(*batch())
    monkeypatch.setattr("fedlens.training.image_gradients.MOST_BYTES", 1)
    close(clipped_sum(*batch()), whole)


def test_no_images_give_nothing():
    assert not any(value.any() for value in clipped_sum(torch.empty(0), torch.empty(0, dtype=torch.long)).values())


def test_an_image_whose_gradient_is_not_finite_counts_nothing():
    inputs, labels = batch()
    broken = inputs.clone()
    broken[3] = torch.nan
    others = torch.arange(7) != 3
    close(clipped_sum(broken, labels), clipped_sum(inputs[others], labels[others]))


def test_only_what_is_trained_counts_in_the_norm():
    module = network()
    head = list(module[4].parameters())
    found = clipped_sum(*batch(), module=module, moved=head)
    assert not found["0.weight"].any()
    frozen = network().requires_grad_(False)
    frozen[4].requires_grad_(True)
    close({name: value for name, value in found.items() if name[0] == "4"}, clipped_sum(*batch(), module=frozen))


def test_activations_in_place_and_bf16_work():
    module = copy.deepcopy(network())
    module[2] = nn.ReLU(inplace=True)
    assert all(value.isfinite().all() for value in clipped_sum(*batch(), module=module, precision="bf16").values())


def test_in_bf16_one_image_changes_the_sum_by_at_most_the_clip():
    """A sum of 256 images that agree is long, and bf16 has 8 bits: rounded to it, it would change by more."""
    images, labels = batch(1)
    inputs, truth = images.expand(257, -1, -1, -1).clone(), labels.expand(257)
    sums = [clipped_sum(inputs[:size], truth[:size], precision="bf16") for size in range(250, 258)]
    for before, after in pairwise(sums):
        change = torch.cat([(after[name] - before[name]).flatten() for name in after]).norm()
        assert float(change) <= CLIP * (1 + 1e-3)


@pytest.mark.parametrize(("norm", "layer"), [(nn.BatchNorm2d(4), "1"), (nn.GroupNorm(2, 4), None)])
def test_layers_that_mix_images_are_found(norm: nn.Module, layer: str | None):
    assert batch_layer(FlatModel(network(norm), CPU)) == layer


def test_a_frozen_layer_in_eval_mode_mixes_nothing():
    model = FlatModel(network(nn.BatchNorm2d(4)), CPU)
    model.freeze([model.module[1]], {"1.weight", "1.bias"})
    assert batch_layer(model) is None
