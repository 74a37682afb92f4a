"""Pretrained weights: cache, download from a local server, mirror, damage, no network; the packaged ones; own files."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import struct
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedlens.errors import ModelError
from fedlens.models.base import ModelRequest
from fedlens.models.build import build_model, builder_named
from fedlens.models.tensor_files import read_tensors
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


def test_a_file_that_does_not_fit_names_what_is_wrong(tmp_path):
    state = dict(build_model(builder_named("lenet"), ModelRequest(10, 28, 1)).state_dict())
    del state["backbone.conv1.bias"]
    state["backbone.conv1.scale"] = torch.ones(1)
    state["backbone.conv2.weight"] = torch.ones(16, 6, 3, 3)
    save_file(state, tmp_path / "odd.safetensors")

    with pytest.raises(ModelError) as caught:
        build_model(builder_named("lenet"), ModelRequest(10, 28, 1, weights=tmp_path / "odd.safetensors"))

    assert str(caught.value).endswith(
        "does not fit the model: missing: backbone.conv1.bias; unknown: backbone.conv1.scale; "
        "other shapes: backbone.conv2.weight (16, 6, 3, 3) for (16, 6, 5, 5)"
    )


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"content")
    return buffer.getvalue()


def saved(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """What torch.save wrote, packed: 20 MB of zeros in 20 kB."""
    packed = io.BytesIO()
    source = zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(5_000_000)})))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for part in source.infolist():
            file.writestr(part.filename, source.read(part))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 4\n", "is a pointer of git-lfs"),
        (b"<!DOCTYPE html><html>sign in</html>", "is a web page"),
        (b"\n<HTML>", "is a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "is HDF5, as TensorFlow and Keras write it"),
        (b"\x93NUMPY\1\0", "is a NumPy array"),
        (zipped("weight.npy", "bias.npy"), "holds NumPy arrays"),
        (zipped("config.json", "model.weights.h5"), "is a model of TensorFlow or Keras"),
        (zipped("readme.txt"), "is a zip archive without weights"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\x80", "is an ONNX model"),
        (b"\x1c\0\0\0TFL3" + bytes(20), "is a model of TensorFlow Lite"),
        (b'{"weight_map": {}}', "is JSON"),
        (b"Not Found", "is text, not weights"),
        (b"\x1f\x8b\x08\0", "is packed with gzip"),
        (bytes(range(256)), "is no weights file that is known"),
        (b"\x10\0\0\0", "is no weights file that is known"),
        (b"\x00\x10\0\0\0\0\0\0{", "is cut"),
        (saved({"a": torch.ones(99)})[:-40], "is cut or damaged"),
        (saved({"a": torch.ones(99)}, _use_new_zipfile_serialization=False)[:-40], "cannot be read as weights"),
        (saved({"a": torch.ones(99)}, _use_new_zipfile_serialization=False)[:60], "is cut or damaged"),
        (saved({"epoch": 3}), "holds no named tensors"),
        (saved({3: torch.ones(1)}), "holds no named tensors"),
        (saved({}), "holds no tensors"),
        (saved([torch.ones(1)]), "holds no named tensors"),
        (saved(nn.Linear(1, 1)), r"holds Python objects \(torch.nn.modules.linear.Linear\) besides tensors"),
        (
            struct.pack("<Q", 70_000_000) + b"{" + bytes(70_000_000),
            "names its tensors in 70,000,000 bytes, and at most",
        ),
        (saved({str(n): torch.ones(1) for n in range(66_000)}), "has more than 65,534 tensors"),
        (bomb(), "claims to hold more bytes than it has"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_that_are_not_weights(tmp_path, content, reason):
    (tmp_path / "a.pth").write_bytes(content)

    with pytest.raises(ModelError, match=f"a.pth {reason}") as caught:
        read_tensors(tmp_path / "a.pth")
    assert "weights_only" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_is_no_file_of_weights(tmp_path):
    with pytest.raises(ModelError, match=r"gone.pth: there is no such weights file"):
        read_tensors(tmp_path / "gone.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(ModelError, match=r"pipe.pth cannot be read as weights .*: a named pipe, not a regular file"):
        read_tensors(tmp_path / "pipe.pth")
    script = torch.jit.script(nn.Linear(1, 1))
    script.save(str(tmp_path / "script.pt"))
    with pytest.raises(ModelError, match=r"script.pt is a TorchScript program; save its tensors with torch.save"):
        read_tensors(tmp_path / "script.pt")


@pytest.mark.parametrize("suffix", [".bin", ".pth", ".safetensors", ".ckpt", ""])
@pytest.mark.parametrize("written", ["safetensors", "zip", "legacy"])
def test_the_content_tells_the_format(tmp_path, suffix, written):
    tensors = {"weight": torch.arange(3.0)}
    file = tmp_path / f"a{suffix}"
    if written == "safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=written == "zip")

    assert torch.equal(read_tensors(file)["weight"], tensors["weight"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.module."])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_names_of_wrapped_models(tmp_path, prefix, key):
    trained = build_model(builder_named("lenet"), ModelRequest(10, 28, 1), seed=4)
    state = {f"{prefix}{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save({"epoch": 3, key: {"model_state_dict": state}} if key else state, tmp_path / "a.pth")

    model = build_model(builder_named("lenet"), ModelRequest(10, 28, 1, weights=tmp_path / "a.pth"))

    assert all(map(torch.equal, model.state_dict().values(), trained.state_dict().values()))


@pytest.mark.parametrize("own_names", [True, False])
def test_weights_without_a_head(tmp_path, caplog, own_names):
    trained = build_model(builder_named("lenet"), ModelRequest(10, 28, 1), seed=4)
    state = {f"backbone.{name}" * own_names or name: tensor for name, tensor in trained.backbone.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")

    model = build_model(builder_named("lenet"), ModelRequest(10, 28, 1, weights=tmp_path / "a.pth"))

    assert torch.equal(model.backbone.conv1.weight, trained.backbone.conv1.weight)
    assert not model.head.weight.any()
    assert "it has no head; a new one with 10 starts at zero" in caplog.text


def test_nested_state_dicts_are_found(tmp_path):
    trained = build_model(builder_named("lenet"), ModelRequest(10, 28, 1), seed=4)
    torch.save({"epoch": 3, "state_dict": trained.state_dict()}, tmp_path / "checkpoint.pth")

    model = build_model(builder_named("lenet"), ModelRequest(10, 28, 1, weights=tmp_path / "checkpoint.pth"))

    assert torch.equal(model.head.weight, trained.head.weight)


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
