"""Stages of networks, and freezing up to one of them."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from tests.helpers import CPU, tiny_model
from tests.problems import refuses
from torch import nn

from fedlens.models.base import ModelRequest
from fedlens.models.build import build_model, builder_named
from fedlens.models.size import size_of
from fedlens.models.stages import stage_ends, up_to
from fedlens.training.flat import FlatModel


def made(name, frozen="none", side=32, **parameters):
    return build_model(builder_named(name, parameters), ModelRequest(4, side, 3), frozen=frozen, seed=1)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("lenet", ["backbone.conv1", "backbone.conv2", "backbone.dense1", "backbone.dense2", "head"]),
        # the first convolution with its norm, and every block
        ("resnet18", ["backbone.bn1", *[f"backbone.layer{k}.{b}" for k in (1, 2, 3, 4) for b in (0, 1)], "head"]),
        # the last norm belongs to the last block
        ("timm:vit_tiny_patch16_224", ["backbone.patch_embed", *[f"backbone.blocks.{k}" for k in range(11)],
                                       "backbone.norm", "head"]),
        ("mobilenetv3", [*[f"backbone.features.{k}" for k in range(13)], "backbone.classifier.0", "head"]),
    ],
)  # fmt: skip
def test_the_stages_of_networks(name, ends):
    assert stage_ends(made(name, side=28 if name == "lenet" else 32)) == ends


def test_a_module_of_ones_own_has_stages_too():
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
    assert stage_ends(module) == ["1", "3.0", "3.1"]


def test_stages_share_out_every_parameter():
    model = made("timm:vit_tiny_patch16_224")
    names = [up_to(model, end)[1] for end in stage_ends(model)]
    assert all(below < above for below, above in pairwise(names))
    assert names[-1] == {name for name, _ in model.named_parameters()}
    assert {"backbone.cls_token", "backbone.pos_embed"} <= names[0]


@pytest.mark.parametrize("frozen", [4, "backbone.layer2.0"])
def test_what_is_frozen_neither_moves_nor_travels(frozen):
    model = made("resnet18", frozen)
    assert min(trained(model)) == "backbone.layer2.1.bn1.bias"
    resident = FlatModel(model, CPU)
    before = copy.deepcopy(model.state_dict())
    resident.train()
    model(torch.rand(4, 3, 32, 32)).sum().backward()
    resident.vector.sub_(0.01 * resident.gradient)

    frozen_names = {name for name in before if name.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1"))}
    frozen_names |= {name for name in before if name.startswith("backbone.layer2.0")}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(before) - frozen_names
    assert resident.names == {name for name in changed if not name.endswith("num_batches_tracked")}
    assert not model.backbone.layer2[0].bn1.training
    assert model.backbone.layer2[1].bn1.training


def test_all_stages_are_the_backbone():
    """Dropout behind the last frozen layer would only disturb the features."""
    model = made("mobilenetv3", 14).train()
    assert trained(model) == {"head.weight", "head.bias"}
    assert not any(module.training for module in model.backbone.modules())


def test_statistics_without_parameters_are_frozen_with_what_is_around_them():
    model = tiny_model()
    model.backbone[1] = nn.BatchNorm2d(4, affine=False)
    assert "backbone.1.running_mean" in FlatModel(copy.deepcopy(model), CPU).names
    model.backbone[0].requires_grad_(False)
    model.hold([model.backbone])
    assert FlatModel(model, CPU).names == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("frozen", "code", "text"),
    [
        (10, "incompatible", "the backbone has 9 stages: use 1 to 9"),
        (
            "backbone.layer22",
            "unknown_name",
            "the model has no module of that name. Did you mean backbone.layer2?",
        ),
        ("all", "unknown_name", "Use backbone, a number of stages from 1 to 9, or the last module to freeze, such as "),
        ("head", "incompatible", "nothing would be left to train; use model.freeze=backbone"),
    ],
)
def test_what_cannot_be_frozen(frozen, code, text):
    with refuses((code, "model.freeze")) as caught:
        made("resnet18", frozen)
    assert f"{frozen!r}: " in str(caught.value)
    assert text in str(caught.value)


def test_the_size_of_a_model_is_of_what_would_travel():
    # convolution 4 × 9, norm 4 + 4 and as much in statistics, head 32 × 3 + 3: float32
    assert size_of(tiny_model()) == 4 * (36 + 8 + 8 + 99)
    assert size_of(tiny_model()) == sum(value.nbytes for value in FlatModel(tiny_model(), CPU).state().values())
