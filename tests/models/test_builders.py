"""Every builder: parameter counts from the papers, shapes, heads, sizes, and the same numbers for the same seed."""

from __future__ import annotations

import pytest
import torch
from tests.problems import refuses
from torch import nn

from fedlens.checks.contracts import model_shapes
from fedlens.errors import ModelError
from fedlens.models.base import ModelRequest, models
from fedlens.models.build import build_model, builder_named

SMALL = [
    ("lenet", {}, 28, 1),
    ("lenet", {}, 32, 3),
    ("cnn", {}, 28, 1),
    ("cnn", {}, 32, 3),
    ("cnn", {"padded": False}, 28, 1),
    ("resnet18", {}, 32, 3),
    ("mobilenetv3", {}, 32, 1),
    ("mobilenetv3", {"variant": "large"}, 32, 3),
    ("vit", {"variant": "tiny"}, 32, 3),
    ("vit", {"variant": "tiny"}, 28, 1),
    ("efficientnet_lite0", {}, 32, 3),
    ("timm:resnet10t", {}, 32, 3),
]


@pytest.mark.parametrize(("name", "parameters", "side", "channels"), SMALL)
def test_gives_features_and_logits_at_the_asked_size(name, parameters, side, channels):
    model_shapes(builder_named(name, parameters), ModelRequest(7, side, channels))


@pytest.mark.parametrize(
    ("name", "parameters", "request_", "count"),
    [
        # 156 + 2,416 (convolutions) + 30,840 + 10,164 + 850 (256 → 120 → 84 → 10)
        ("lenet", {}, ModelRequest(10, 28, 1), 44_426),
        # On CIFAR-10: 456 + 2,416 + (400 + 1)·120 + 10,164 + 850
        ("lenet", {}, ModelRequest(10, 32, 3), 62_006),
        # 832 + 51,264 + (3,136 + 1)·512 + 5,130: "1,663,370 total parameters", McMahan et al.
        ("cnn", {}, ModelRequest(10, 28, 1), 1_663_370),
        ("cnn", {"padded": False}, ModelRequest(10, 28, 1), 582_026),
        # torchvision's and timm's documented counts at 1,000 classes
        ("resnet18", {}, ModelRequest(1000, 224, 3), 11_689_512),
        ("resnet50", {}, ModelRequest(1000, 224, 3), 25_557_032),
        ("mobilenetv3", {}, ModelRequest(1000, 224, 3), 2_542_856),
        ("mobilenetv3", {"variant": "large"}, ModelRequest(1000, 224, 3), 5_483_032),
        ("vit", {}, ModelRequest(1000, 224, 3), 86_567_656),
        ("vit", {"variant": "tiny"}, ModelRequest(1000, 224, 3), 5_717_416),
        ("efficientnet_lite0", {}, ModelRequest(1000, 224, 3), 4_652_008),
    ],
)
def test_parameter_counts(name, parameters, request_, count):
    model = build_model(builder_named(name, parameters), request_)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_mobilenet_keeps_all_but_the_last_layer_in_the_backbone():
    model = build_model(builder_named("mobilenetv3"), ModelRequest(10, 32, 3))

    assert (model.head.in_features, model.head.out_features) == (1024, 10)


def test_lenet_equals_the_usual_order_of_relu_and_pooling():
    model = build_model(builder_named("lenet"), ModelRequest(10, 28, 1), seed=1)
    layers = model.backbone
    first, second, third, fourth = layers.conv1, layers.conv2, layers.dense1, layers.dense2
    usual = nn.Sequential(
        first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        third, nn.ReLU(), fourth, nn.ReLU(), model.head,
    )  # fmt: skip
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    assert torch.equal(model(images), usual(images))


def test_vit_surrounds_images_that_do_not_fill_its_patches():
    """28 pixels get a border of two; the same pixels inside a black 32 give the same logits."""
    small = build_model(builder_named("vit", {"variant": "tiny"}), ModelRequest(3, 28, 3), seed=2).eval()
    large = build_model(builder_named("vit", {"variant": "tiny"}), ModelRequest(3, 32, 3), seed=2).eval()
    images = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        assert torch.equal(small(images), large(nn.functional.pad(images, (2, 2, 2, 2))))


def test_same_seed_same_numbers_and_the_global_state_stays():
    before = torch.get_rng_state()
    request = ModelRequest(10, 28, 1)
    one, same, other = (build_model(builder_named("lenet"), request, seed=seed) for seed in (5, 5, 6))

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_small_images_are_refused_with_the_way_out():
    with pytest.raises(ModelError, match=r"needs data\.image_size of 16 or more, not 12"):
        build_model(builder_named("lenet"), ModelRequest(10, 12, 1))
    with pytest.raises(ModelError, match=r"data\.image_size=32, not 28"):
        build_model(builder_named("timm:vit_tiny_patch16_224"), ModelRequest(10, 28, 1))
    with pytest.raises(ModelError, match=r"does not take data\.image_size=28"):
        build_model(builder_named("timm:convnext_atto"), ModelRequest(10, 28, 1))


def test_models_without_published_weights_say_so():
    with pytest.raises(ModelError, match="cnn has no published weights"):
        build_model(builder_named("cnn"), ModelRequest(10, 28, 1, pretrained=True))


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(ModelError, match="did you mean resnet26"):
        build_model(builder_named("timm:resnte26"), ModelRequest(10, 32, 3))
    with refuses(("unknown_name", "resnet81")) as caught:
        builder_named("resnet81")
    assert "Did you mean 'resnet18'?" in str(caught.value)
    with refuses(("invalid_value", "model.variant")):
        builder_named("mobilenetv3", {"variant": "medium"})


def test_timm_networks_with_two_heads_are_refused():
    with pytest.raises(ModelError, match="does not end in one linear layer"):
        build_model(builder_named("timm:deit_tiny_distilled_patch16_224"), ModelRequest(10, 32, 3))


def test_timm_takes_size_and_statistics_from_the_published_weights():
    builder = builder_named("timm:vit_tiny_patch16_384")

    assert builder.default_image_size == 384
    assert build_model(builder, ModelRequest(10, 32, 3)).preprocessing.mean == (0.5, 0.5, 0.5)


def test_every_registered_model_says_its_default_size():
    needs = {"timm": {"architecture": "resnet10t"}}

    for entry in models.entries():
        assert entry.build(needs.get(entry.name, {})).default_image_size >= 28
