"""Pretrained weights: cache, download from a local server, mirror, damage, no network; the packaged ones; own files."""

from __future__ import annotations

import hashlib
import logging
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedlens.errors import ModelError
from fedlens.models.base import ModelRequest
from fedlens.models.build import build_model, builder_named
from fedlens.models.weights import TimmWeights, TorchvisionWeights

NOWHERE = "http://127.0.0.1:9"
"""The port of the discard service, which nobody runs: refused at once."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def published():
    """torchvision's MobileNetV3-small with numbers of our own."""
    from torchvision.models import mobilenet_v3_small

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return mobilenet_v3_small().eval()


@pytest.fixture
def server(tmp_path):
    """A folder, and the address that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """PyTorch's hub cache, empty."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    monkeypatch.delenv("FEDLENS_WEIGHTS_MIRROR", raising=False)
    return folder / "checkpoints"


def publish(network, folder):
    """Save as torchvision does, the start of the SHA-256 in the name."""
    torch.save(network.state_dict(), folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    return (folder / "new.pth").rename(folder / f"mobilenet_v3_small-{digest[:8]}.pth")


def address(monkeypatch, url):
    monkeypatch.setattr(TorchvisionWeights, "url", property(lambda self: url))


def pretrained(num_classes=1000):
    return build_model(builder_named("mobilenetv3"), ModelRequest(num_classes, 64, 3, pretrained=True)).eval()


def test_downloads_once_and_then_uses_the_cache(server, cache, published, monkeypatch):
    folder, base = server
    file = publish(published, folder)
    address(monkeypatch, f"{base}/{file.name}")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    model = pretrained()
    with torch.inference_mode():
        assert torch.equal(model(images), published(images))
    assert [path.name for path in cache.iterdir()] == [file.name]

    file.unlink()
    assert torch.equal(pretrained().head.weight, model.head.weight)


def test_a_new_head_starts_at_zero(server, cache, published, monkeypatch):
    folder, base = server
    address(monkeypatch, f"{base}/{publish(published, folder).name}")

    model = pretrained(num_classes=10)

    assert model.head.weight.shape == (10, 1024)
    assert not model.head.weight.any()
    assert not model.head.bias.any()
    assert torch.equal(model.backbone.features[0][0].weight, published.features[0][0].weight)


def test_a_mirror_takes_the_place_of_the_published_address(server, cache, published, monkeypatch):
    folder, base = server
    file = publish(published, folder)
    address(monkeypatch, f"{NOWHERE}/models/{file.name}")
    monkeypatch.setenv("FEDLENS_WEIGHTS_MIRROR", f"{base}/")

    assert torch.equal(pretrained().head.bias, published.classifier[3].bias)


def test_a_damaged_download_is_refused_and_not_kept(server, cache, published, monkeypatch):
    folder, base = server
    file = publish(published, folder)
    file.write_bytes(file.read_bytes()[:-1000])
    address(monkeypatch, f"{base}/{file.name}")

    with pytest.raises(ModelError, match=r"came damaged .* invalid hash value"):
        pretrained()
    assert list(cache.iterdir()) == []


def test_without_a_network_the_error_names_the_ways_out(cache, monkeypatch):
    address(monkeypatch, f"{NOWHERE}/mobilenet_v3_small-047dcff4.pth")

    with pytest.raises(ModelError) as caught:
        pretrained()

    message = str(caught.value)
    for part in (
        "mobilenet_v3_small-047dcff4.pth",
        "Connection refused",
        "fedlens models fetch mobilenetv3 variant=small --to FOLDER",
        str(cache),
        "model.weights=FILE",
        "model.name=efficientnet_lite0",
    ):
        assert part in message
    assert list(cache.iterdir()) == []


def test_published_names_carry_their_checksums():
    """What the real table says; the download's check depends on it."""
    assert TorchvisionWeights("resnet18", "ResNet18_Weights.IMAGENET1K_V1").file_name == "resnet18-f37072fd.pth"
    vit = builder_named("vit").source()
    assert (vit.file_name, builder_named("resnet50").source().file_name) == (
        "vit_b_16-c867db91.pth",
        "resnet50-11ad3fa6.pth",
    )


def test_timm_without_a_network(cache, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *_, **__: f"{NOWHERE}/model.safetensors")

    with pytest.raises(ModelError, match=r"fedlens models fetch timm:resnet10t --to FOLDER"):
        build_model(builder_named("timm:resnet10t"), ModelRequest(10, 32, 3, pretrained=True))


def test_timm_uses_a_file_that_was_copied_into_the_cache(cache):
    import timm

    network = timm.create_model("resnet10t").eval()
    cache.mkdir(parents=True)
    save_file(network.state_dict(), cache / TimmWeights("timm:resnet10t", "resnet10t").file_name)

    model = build_model(builder_named("timm:resnet10t"), ModelRequest(1000, 32, 3, pretrained=True)).eval()

    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(model(images), network(images))


def test_tiny_vit_resamples_its_position_embeddings(cache):
    import timm

    network = timm.create_model("vit_tiny_patch16_224")
    cache.mkdir(parents=True)
    save_file(network.state_dict(), cache / TimmWeights("vit", "vit_tiny_patch16_224").file_name)

    request = ModelRequest(5, 96, 3, pretrained=True)
    model = build_model(builder_named("vit", {"variant": "tiny"}), request)

    assert model.backbone.pos_embed.shape == (1, 1 + 6 * 6, 192)
    assert torch.equal(model.backbone.blocks[3].mlp.fc1.weight, network.blocks[3].mlp.fc1.weight)
    assert not model.head.weight.any()


def test_fetch_copies_under_the_name_that_the_cache_expects(server, cache, published, monkeypatch, tmp_path):
    folder, base = server
    file = publish(published, folder)
    address(monkeypatch, f"{base}/{file.name}")
    source = builder_named("mobilenetv3").source()

    assert source.fetch() == cache / file.name
    copy = source.fetch(tmp_path / "stick" / "weights")
    assert copy == tmp_path / "stick" / "weights" / file.name
    assert copy.read_bytes() == file.read_bytes()


def test_own_file_with_the_architectures_names(published, tmp_path, monkeypatch):
    """What `fedlens models fetch` copies can be given as model.weights; pretrained then needs no network."""
    monkeypatch.setattr(TorchvisionWeights, "file", lambda self: pytest.fail("must not look for weights"))
    file = publish(published, tmp_path)
    request = ModelRequest(1000, 64, 3, pretrained=True, weights=file)

    model = build_model(builder_named("mobilenetv3"), request)

    assert torch.equal(model.head.weight, published.classifier[3].weight)
    assert torch.equal(model.backbone.classifier[0].weight, published.classifier[0].weight)


def test_own_file_of_fedlens_and_another_number_of_classes(tmp_path, caplog):
    trained = build_model(builder_named("lenet"), ModelRequest(10, 28, 1), seed=4)
    save_file(trained.state_dict(), tmp_path / "mine.safetensors")

    with caplog.at_level(logging.WARNING):
        model = build_model(builder_named("lenet"), ModelRequest(3, 28, 1, weights=tmp_path / "mine.safetensors"))

    assert torch.equal(model.backbone.conv1.weight, trained.backbone.conv1.weight)
    assert not model.head.weight.any()
    assert "its head has 10 outputs; a new one with 3 starts at zero" in caplog.text


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_own_file_in_a_network_with_group_norm(tmp_path, norm):
    """BatchNorm's file: scales move over, statistics go. GroupNorm's own file: fits as it is."""
    builder = builder_named("timm:resnet10t")
    source = build_model(builder, ModelRequest(3, 32, 3), norm=norm, seed=4)
    nn.init.constant_(source.backbone.layer1[0].bn1.weight, 7.0)
    save_file(source.state_dict(), tmp_path / "mine.safetensors")

    request = ModelRequest(3, 32, 3, weights=tmp_path / "mine.safetensors")
    model = build_model(builder, request, norm="group")

    assert isinstance(model.backbone.layer1[0].bn1, nn.GroupNorm)
    assert (model.backbone.layer1[0].bn1.weight == 7.0).all()


def test_packaged_weights_load_offline_and_entry_by_entry(monkeypatch):
    builder = builder_named("efficientnet_lite0")
    published = builder.source().tensors()

    model = build_model(builder, ModelRequest(1000, 224, 3, pretrained=True))

    assert torch.equal(model.backbone.conv_stem.weight, published["_conv_stem.weight"])
    assert torch.equal(model.head.weight, published["_fc.weight"])
    pixels = torch.tensor([0, 127, 255], dtype=torch.uint8).view(1, 1, 3, 1).expand(1, 1, 3, 3)
    assert torch.allclose(model.prepare(pixels)[0, 0, 0], torch.tensor([-127 / 128, 0, 1.0]), atol=1e-6)

    monkeypatch.setattr(type(builder.source()), "tensors", lambda self: dict(list(published.items())[1:]))
    with pytest.raises(ModelError, match="295 entries"):
        build_model(builder, ModelRequest(1000, 224, 3, pretrained=True))
