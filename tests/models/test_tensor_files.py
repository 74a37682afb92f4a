"""Weights files that people give: of every format, wrapped, without a head, damaged, or made to exhaust the memory."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedlens.errors import ModelError
from fedlens.models.base import ModelRequest
from fedlens.models.build import build_model, builder_named
from fedlens.models.tensor_files import read_tensors

NOWHERE = "http://127.0.0.1:9"
"""The port of the discard service, which nobody runs: refused at once."""


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


def zipped(*names: str, content: bytes = b"content") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, content)
    return buffer.getvalue()


def pickled(content: object) -> bytes:
    return pickle.dumps(content, protocol=2)


def saved(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def of_a_trillion_numbers() -> bytes:
    """The old format of torch.save, which says how many numbers a tensor has, apart from the numbers."""
    short = saved({"a": torch.ones(5)}, _use_new_zipfile_serialization=False)
    return short.replace(b"K\x05Nt", b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"Nt", 1)


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
        (zipped("a/data.pkl", content=pickled(bytearray(9))), r"holds Python objects \(bytearray\)"),
        (pickled(1) + pickled({"a": bytearray(9)}), r"holds Python objects \(bytearray\)"),
        (of_a_trillion_numbers(), "cannot be read as weights .*(memory|size)"),
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
