"""Fashion-MNIST and CIFAR: an existing copy is used, an absent one is fetched with its checksum."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import pickle
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from fedlens.data.sources import fashion_mnist
from fedlens.data.sources.cifar10 import CIFAR10
from fedlens.data.sources.cifar100 import CIFAR100
from fedlens.data.sources.fashion_mnist import FashionMNIST, read_idx
from fedlens.errors import DataError

TRAIN, TEST = 6, 4


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args) -> None:
        pass


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/", folder
        http.shutdown()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FEDLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    return tmp_path / "cache"


def idx(array: np.ndarray) -> bytes:
    """The IDX format: two zeros, 8 = unsigned byte, the number of axes, each length as a big-endian word."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return header + array.tobytes()


def write_fashion(folder: Path, packed: bool = True) -> dict[str, bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    files: dict[str, bytes] = {}
    for prefix, count in (("train", TRAIN), ("t10k", TEST)):
        images = rng.integers(0, 255, (count, 28, 28), np.uint8)
        images[:, 0, 0] = np.arange(count)
        files[f"{prefix}-images-idx3-ubyte"] = idx(images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx(np.arange(count, dtype=np.uint8))
    if packed:
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


def check_fashion(table) -> None:
    assert table.images.shape == (TRAIN + TEST, 28, 28, 1)
    assert table.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert table.labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert table.split.tolist() == ["train"] * TRAIN + ["test"] * TEST
    assert (table.channels, table.native_size, len(table.class_names)) == (1, 28, 10)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inner", [".", "FashionMNIST/raw"])
def test_fashion_mnist_in_a_given_folder(tmp_path, packed, inner):
    write_fashion(tmp_path / "own" / inner, packed)

    check_fashion(FashionMNIST(tmp_path / "own").load())


def test_fashion_mnist_of_debian_needs_no_torchvision(tmp_path, monkeypatch):
    write_fashion(tmp_path / "debian")
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)

    check_fashion(FashionMNIST().load())


def test_fashion_mnist_is_downloaded_once(server, own_cache, monkeypatch):
    address, folder = server
    files = write_fashion(folder)
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", sums)

    check_fashion(FashionMNIST().load())

    assert (own_cache / "datasets" / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte").is_file()
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [])
    check_fashion(FashionMNIST().load())


def test_fashion_mnist_with_a_wrong_checksum_is_refused(server, own_cache, monkeypatch):
    address, folder = server
    sums = [(name, hashlib.md5(b"other").hexdigest()) for name in write_fashion(folder)]
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", sums)

    with pytest.raises(DataError, match=r"cannot be downloaded \(File not found or corrupted.*dataset-fashion-mnist"):
        FashionMNIST().load()


def test_fashion_mnist_offline_says_the_ways_out(own_cache, monkeypatch):
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:1/"])

    with pytest.raises(DataError, match=r"cannot be downloaded \(.*refused.*set data\.path") as caught:
        FashionMNIST().load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x01\0\0\0\x09abc", b"\x01\x02\x03\x04", b"\0\0\x0d\x01\0\0\0\0"])
def test_damaged_idx_names_the_file(tmp_path, content):
    for name, data in (
        ("plain", content),
        ("packed.gz", gzip.compress(content)),
        ("cut.gz", gzip.compress(content)[:9]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: .*remove it"):
            read_idx(tmp_path / name)


def test_fashion_mnist_of_files_that_do_not_fit(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(3, np.uint8))))

    with pytest.raises(DataError, match="do not fit together"):
        FashionMNIST(tmp_path).load()


def pack_cifar(served: Path, kind: type, monkeypatch, label_key: str, names: list[str]) -> Path:
    """A tiny archive in CIFAR's layout, and torchvision's class told its checksums."""
    parts = [name for name, _ in kind.train_list + kind.test_list]
    contents = {}
    for number, name in enumerate(parts):
        rows = np.full((2, 3072), number, np.uint8)
        rows[:, :1024] = 200  # the red plane comes first
        contents[name] = pickle.dumps({"data": rows, label_key: [number % 2, 1]})
    contents[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: names})
    archive = served / kind.filename
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(kind, "train_list", [[name, sums[name]] for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[name, sums[name]] for name, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums[kind.meta["filename"]]})
    return archive


@pytest.mark.parametrize(
    ("source", "kind", "label_key"),
    [(CIFAR10, datasets.CIFAR10, "labels"), (CIFAR100, datasets.CIFAR100, "fine_labels")],
)
def test_cifar_is_downloaded_once(server, tmp_path, monkeypatch, source, kind, label_key):
    address, folder = server
    archive = pack_cifar(folder, kind, monkeypatch, label_key, ["plane", "car"])
    monkeypatch.setattr(kind, "url", address + archive.name)

    source(tmp_path / "data").load()
    monkeypatch.setattr(kind, "url", "http://127.0.0.1:1/")
    table = source(tmp_path / "data").load()

    rows = 2 * (len(kind.train_list) + 1)
    assert table.images.shape == (rows, 32, 32, 3)
    assert table.images[0, 0, 0].tolist() == [200, 0, 0]
    assert table.labels[:4].tolist() == [0, 1, 1, 1]
    assert table.split.tolist() == ["train"] * (rows - 2) + ["test"] * 2
    assert (table.class_names, table.channels, table.native_size) == (("plane", "car"), 3, 32)


def test_cifar_with_a_wrong_checksum_is_refused(server, tmp_path, monkeypatch):
    address, folder = server
    archive = pack_cifar(folder, datasets.CIFAR10, monkeypatch, "labels", ["plane", "car"])
    monkeypatch.setattr(datasets.CIFAR10, "url", address + archive.name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(b"other").hexdigest())

    with pytest.raises(DataError, match=r"CIFAR10 is not in .*data\.path"):
        CIFAR10(tmp_path / "data").load()


def test_cifar_offline_says_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:1/cifar.tar.gz")

    with pytest.raises(
        DataError, match=r"CIFAR10 is not in .*refused.*fetch http://127\.0\.0\.1:1/cifar\.tar\.gz on a"
    ):
        CIFAR10(tmp_path / "data").load()


def test_sample_builder_deals_out_ten_shops(tmp_path, monkeypatch):
    tool = Path(__file__).parents[2] / "tools" / "build_sample.py"
    spec = importlib.util.spec_from_file_location("build_sample", tool)
    build_sample = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_sample)
    labels = np.repeat(np.arange(10, dtype=np.uint8), 1500)

    rows, shops = build_sample.choose(np.random.default_rng(3), labels)

    assert len(rows) == len(set(rows.tolist())) == len(shops) == 5000
    sizes = np.unique(shops, return_counts=True)[1]
    assert (len(sizes), sizes.min() >= 250, sizes.max() <= 900) == (10, True, True)
