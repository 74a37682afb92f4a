"""Low-rank adapters: what is trained, what travels, and the model that is saved."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.helpers import CPU
from torch import nn

import fedlens
from fedlens.errors import ModelError
from fedlens.inference.predict import open_predictor
from fedlens.models.artefact import load_model
from fedlens.models.base import ModelRequest
from fedlens.models.build import build_model, builder_named
from fedlens.models.lora import merged
from fedlens.models.sections import LoraSection
from fedlens.tracking.metrics import read_metrics
from fedlens.training.flat import FlatModel

needs_peft = pytest.mark.slow
"""peft brings transformers with it, which takes long to import."""

LENET_ADAPTERS = 2 * (256 + 120) + 2 * (120 + 84)
LENET_HEAD = 84 * 10 + 10
"""Numbers that travel of LeNet with adapters of rank 2: A is (2, in) and B is (out, 2)."""


def adapted(name="lenet", side=28, channels=1, **lora):
    settings = LoraSection(**{"rank": 2, "alpha": 4.0, **lora})
    return build_model(builder_named(name), ModelRequest(10, side, channels), lora=settings, seed=3)


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def disturbed(model: nn.Module) -> nn.Module:
    """B starts at zero; here it has values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return model


@needs_peft
def test_only_adapters_and_head_are_trained_and_travel() -> None:
    model = adapted()
    layers = [f"backbone.dense{k}.lora_{ab}.default.weight" for k in (1, 2) for ab in "AB"]
    assert trained(model) == {*layers, "head.weight", "head.bias"}
    state = FlatModel(model, CPU).state()
    assert sum(value.nbytes for value in state.values()) == 4 * (LENET_ADAPTERS + LENET_HEAD) == 8040


@needs_peft
def test_it_begins_as_the_model_without_adapters() -> None:
    plain = build_model(builder_named("lenet"), ModelRequest(10, 28, 1), seed=3)
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(adapted()(images), plain(images))
    first, again = (adapted().backbone.dense1.lora_A["default"].weight for _ in range(2))
    assert torch.equal(first, again)


@needs_peft
def test_an_adapter_adds_the_product_of_its_matrices() -> None:
    """h = W₀ x + b + (α / r) B A x, equation 3 of the paper, with α / r = 2."""
    layer = disturbed(adapted()).backbone.dense1
    x = torch.rand(5, 256, generator=torch.Generator().manual_seed(0))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + 2 * (x @ a.T @ b.T)
    assert torch.allclose(layer(x), expected, atol=1e-5)


@needs_peft
@pytest.mark.parametrize(
    ("name", "side", "channels", "targets"),
    [
        ("lenet", 28, 1, ()),
        ("lenet", 28, 1, ("conv2", "dense1")),
        ("resnet18", 32, 3, ("conv1",)),
        ("timm:vit_tiny_patch16_224", 32, 3, ()),
        ("timm:vit_tiny_patch16_224", 32, 3, ("qkv",)),
    ],
)
def test_merged_it_is_the_plain_architecture_with_the_same_outputs(name, side, channels, targets) -> None:
    model = disturbed(adapted(name, side, channels, targets=targets)).eval()
    plain = build_model(builder_named(name), ModelRequest(10, side, channels)).eval()
    plain.load_state_dict(merged(model).state_dict(), strict=True)
    images = torch.rand(2, 3 if channels == 3 else 1, side, side, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(plain(images), model(images), atol=1e-4)
    assert trained(model)  # the model itself goes on with its adapters
    assert any(".lora_" in key for key in model.state_dict())


@needs_peft
def test_statistics_stay_frozen_with_their_layers() -> None:
    model = adapted("resnet18", 32, 3, targets=("conv1",))
    before = copy.deepcopy(model.state_dict())
    resident = FlatModel(model, CPU)
    resident.train()
    model(torch.rand(4, 3, 32, 32)).sum().backward()
    assert not any("running" in name for name in resident.names)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if "running" in name)


@needs_peft
def test_a_vits_attention_is_adapted_where_that_is_exact() -> None:
    """timm's projections are layers; those of torch's MultiheadAttention are left alone."""
    tiny = adapted("timm:vit_tiny_patch16_224", 32, 3)
    kinds = {name.split(".lora_")[0].rpartition("blocks.0.")[2] for name in trained(tiny) if "blocks.0." in name}
    assert kinds == {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    # width 192: qkv 192 → 576, proj 192 → 192, fc1 192 → 768, fc2 768 → 192
    block = 2 * (192 + 576 + 192 + 192 + 192 + 768 + 768 + 192)
    assert FlatModel(tiny, CPU).vector.numel() == 12 * block + 192 * 10 + 10


@pytest.mark.parametrize(
    ("name", "targets", "text"),
    [
        ("resnet18", (), r"model\.lora\.rank: the backbone has no linear layer .* model\.lora\.targets=\[conv1,conv2,"),
        ("resnet18", ("qkv",), r"model\.lora\.targets = 'qkv': no linear layer or convolution .* ends in that name"),
        ("vit", ("out_proj",), r"'out_proj': .*MultiheadAttention cannot be adapted.* use some of \[conv_proj,mlp\.0,"),
    ],
)
def test_a_model_without_such_layers_is_refused_in_one_line(name, targets, text) -> None:
    with pytest.raises(ModelError, match=text) as error:
        adapted(name, 32, 3, targets=targets)
    assert "\n" not in str(error.value)


QUICK = (
    "model.name=lenet", "model.lora.rank=2", "optimizer.lr=0.05", "federated.num_rounds=2",
    "federated.fraction_fit=0.2", "federated.evaluate_clients_every=0", "tracking.tensorboard=false",
)  # fmt: skip


def run(folder, *more):
    return fedlens.run(None, *QUICK, f"tracking.dir={folder}", *more, show=False)


@needs_peft
def test_a_run_sends_little_says_so_resumes_and_is_loaded_again(tmp_path) -> None:
    whole = run(tmp_path / "whole", "runtime.workers=2")
    line = read_metrics(whole.folder / "metrics.jsonl")[0]
    assert (line["bytes_up"], line["bytes_down"]) == (2 * 8040, 2 * 8040)
    assert line["measures"]["traffic/whole_model"] == 2 * 2 * 4 * 44_426  # LeNet's parameters, two clients, both ways
    page = whole.report.read_text()
    assert "0.03 MB a round instead of 0.71 MB, 0.68 MB (95.5 %) saved" in page

    short = run(tmp_path / "short", "runtime.workers=2", "federated.num_rounds=1")
    resumed = fedlens.resume(short.folder, "federated.num_rounds=2", show=False)
    files = [(one.folder / "model" / "model.safetensors").read_bytes() for one in (whole, resumed)]
    assert files[0] == files[1]

    loaded, _ = load_model(whole.folder / "model")
    assert not any(".lora_" in name for name in loaded.state_dict())
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(loaded(images), whole.model(images), atol=1e-5)
    assert open_predictor(str(whole.folder)).class_names[0] == "T-shirt/top"

    alone = run(tmp_path / "alone", "runtime.name=in_process")
    for name, value in alone.model.state_dict().items():
        assert torch.allclose(value, whole.model.state_dict()[name], atol=1e-5), name
