"""This machine: images, disk, memory, GPU."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest
import torch
from tests.photos import photos

from fedlens.config.site import AllowSection, SiteConfig
from fedlens.diagnose import machine
from fedlens.diagnose.subject import Subject
from fedlens.diagnose.verdict import Unseen


def site(tmp_path, **changes):
    values = {"data_dir": tmp_path / "photos", "state_dir": tmp_path / "state", "cache_dir": tmp_path / "cache"}
    return Subject(SiteConfig(**{**values, **changes}), has_data=True)


def spoil(tmp_path, pattern):
    for path in (tmp_path / "photos").glob(pattern):
        path.write_bytes(b"not an image")


def test_images_are_counted_by_class(tmp_path):
    photos(tmp_path / "photos", each=20)
    shutil.rmtree(tmp_path / "photos" / "fork")
    photos(tmp_path / "photos", each=5, classes=("fork",))
    seen = machine.data(site(tmp_path))
    assert seen.status == "ok"
    assert seen.text == "45 images of 3 classes (5 to 20 of each); 32 looked at, all can be decoded"


@pytest.mark.parametrize("paths", ["all", "some", "none"])
def test_rows_without_an_image_are_not_looked_at(tmp_path, paths):
    files = photos(tmp_path / "photos", each=2).glob("*/*.png")
    named = ["" if paths == "none" or (paths == "some" and "cup" in str(file)) else str(file) for file in files]
    table = tmp_path / "all.csv"
    table.write_text("path,label,text\n" + "".join(f"{name},{at % 2},{at}\n" for at, name in enumerate(named)))
    seen = machine.data(site(tmp_path, data_dir=table))
    images = {"all": 6, "some": 4, "none": 0}[paths]
    looked = f"; {images} looked at, all can be decoded" if images else ""
    assert (seen.status, seen.text) == (
        "ok",
        f"6 rows ({images} with an image, 6 with a text, {images} with both) of 2 classes (3 of each){looked}",
    )


@pytest.mark.parametrize(("rule", "status"), [("skip", "warn"), ("fail", "fail")])
def test_unreadable_images(tmp_path, rule, status):
    photos(tmp_path / "photos", each=4)
    spoil(tmp_path, "cup/*")
    seen = machine.data(site(tmp_path, on_bad_image=rule))
    assert seen.status == status
    assert "4 of 12 looked at cannot be decoded" in seen.text
    assert "cup/0.png" in seen.text


def test_only_unreadable_images(tmp_path):
    photos(tmp_path / "photos", each=4)
    spoil(tmp_path, "*/*")
    assert machine.data(site(tmp_path)).status == "fail"


def test_too_few_images_for_this_sites_own_rule(tmp_path):
    photos(tmp_path / "photos", each=4)
    seen = machine.data(site(tmp_path, allow=AllowSection(min_images=13)))
    assert seen.status == "fail"
    assert "fewer than allow.min_images = 13" in seen.text
    assert machine.data(site(tmp_path, allow=AllowSection(min_images=12))).status == "ok"


def test_no_data_folder(tmp_path):
    seen = machine.data(site(tmp_path))
    assert seen.status == "fail"
    assert "data_dir: " in seen.text
    assert "does not exist" in seen.text
    assert seen.advice
    assert machine.data(Subject(SiteConfig(data_dir="."))) == Unseen("give --data_dir FOLDER")


def test_the_folder_of_several_clients(tmp_path):
    for name in ("client1", "client2"):
        photos(tmp_path / "photos" / name, each=1)
    seen = machine.data(site(tmp_path))
    assert seen.status == "fail"
    assert "several clients" in seen.text


@pytest.mark.parametrize(("free", "status"), [(10**6, "fail"), (10**9, "warn"), (10**11, "ok")])
def test_disk(tmp_path, monkeypatch, free, status):
    usage = namedtuple("usage", "total used free")(10**12, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    seen = machine.disk(site(tmp_path))
    assert seen.status == status
    assert f"{tmp_path / 'state'} (state_dir)" in seen.text
    assert not (tmp_path / "state").exists()


def test_a_disk_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    seen = machine.disk(site(tmp_path, cache_dir=tmp_path / "file" / "cache"))
    assert seen.status == "fail"
    assert "cache cannot be written" in seen.text
    assert "cache_dir" in seen.advice


@pytest.mark.parametrize(("free", "status"), [(10**8, "fail"), (10**9, "warn"), (10**10, "ok")])
def test_memory(tmp_path, monkeypatch, free, status):
    monkeypatch.setattr(machine, "_memory", lambda: (free, 10**10))
    assert machine.memory(site(tmp_path)).status == status


def test_a_containers_memory_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr(machine, "CONTAINER", tmp_path)
    assert machine._memory() == (600_000, 1_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._memory()[1] > 1_000_000


def test_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(machine, "NVIDIA_DRIVER", tmp_path / "none")
    assert "CPU, 3 threads" in machine.gpu(site(tmp_path, threads=3)).text
    assert machine.gpu(site(tmp_path, device="cuda")).status == "fail"
    monkeypatch.setattr(machine, "NVIDIA_DRIVER", tmp_path)
    assert machine.gpu(site(tmp_path)).status == "warn"  # there is one, and PyTorch does not see it


def test_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _index: (140 * 10**9, 150 * 10**9))
    monkeypatch.setattr(torch, "ones", lambda *_shape, device: torch.zeros(1))
    assert machine.gpu(site(tmp_path)).text == "NVIDIA H200, 140.0 GB of 150.0 GB free"
    assert machine.gpu(site(tmp_path, device="cuda:1")).status == "fail"

    def broken(*_shape, device):
        raise RuntimeError("CUDA error: no kernel image is available\nand more lines")

    monkeypatch.setattr(torch, "ones", broken)
    seen = machine.gpu(site(tmp_path))
    assert seen.status == "fail"
    assert seen.text == "NVIDIA H200 does not work: CUDA error: no kernel image is available"
