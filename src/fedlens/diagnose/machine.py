"""Checks of this machine: images, disk, memory, GPU."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedlens.diagnose.subject import Subject
from fedlens.diagnose.verdict import Unseen, Verdict, fail, failed, ok, warn
from fedlens.errors import ConfigError, DataError

SAMPLE = 32
"""Number of images that are decoded, spread over all of them."""

LITTLE_DISK = 2_000_000_000
LITTLE_MEMORY = 2_000_000_000
NO_MEMORY = 500_000_000
"""Bytes. Python with PyTorch alone uses about this much."""

CONTAINER = Path("/sys/fs/cgroup")
"""The folder with a container's own limits."""

NVIDIA_DRIVER = Path("/proc/driver/nvidia")


def data(subject: Subject) -> Verdict | Unseen:
    """Check the site's images: their classes and number, and that a sample can be decoded."""
    if not subject.has_data:
        return Unseen("give --data_dir FOLDER")
    import numpy as np

    from fedlens.core.labels import UNLABELLED
    from fedlens.data.summary import rows_text
    from fedlens.flower.site import images_of

    site = subject.site
    try:
        table = images_of(site)
    except (DataError, ConfigError) as error:
        return failed(error, "give the folder that holds this site's images, one folder a class")
    counts = Counter(table.labels.tolist())
    unlabelled = counts.pop(UNLABELLED, 0)
    what = rows_text(table.has_image, table.has_text, unlabelled)
    classes = f"{len(counts)} classes ({_range(list(counts.values()))} of each)" if counts else "no class"
    text = f"{what} of {classes}"
    if (least := site.allow.min_images) and len(table.labels) < least:
        return fail(f"{text}, fewer than allow.min_images = {least}", "collect more, or lower allow.min_images")
    if isinstance(table.images, np.ndarray) or not table.has_image.any():
        return ok(text)
    files = [path for path in table.images if path is not None]
    step = max(len(files) // SAMPLE, 1)
    return _decoded(text, files[::step][:SAMPLE], skip=site.on_bad_image == "skip")


def _decoded(text: str, sample: Sequence[Path], *, skip: bool) -> Verdict:
    from fedlens.data.images import decode

    bad = []
    for path in sample:
        try:
            decode(path)
        except DataError as error:
            bad.append(str(error))
    if not bad:
        return ok(f"{text}; {len(sample)} looked at, all can be decoded")
    text = f"{text}; {len(bad)} of {len(sample)} looked at cannot be decoded: {bad[0]}"
    advice = "convert such images to JPEG or PNG, or remove them"
    if skip and len(bad) < len(sample):
        return warn(text, f"{advice}; they are left out otherwise")
    return fail(text, advice)


def disk(subject: Subject) -> Verdict:
    """Check the free space for the site's state and its decoded images."""
    from fedlens.data.cache_dir import default_cache_dir
    from fedlens.flower.site import FREE_DISK

    kept = {"tracking.dir": Path("logs")} if subject.serves else {"state_dir": subject.site.state}
    places = {**kept, "cache_dir": subject.site.cache_dir or default_cache_dir()}
    for key, folder in places.items():
        existing = _existing(folder)
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            return fail(f"{folder} cannot be written", f"choose another {key}, or give yourself the right to write")
    rooms = {key: shutil.disk_usage(_existing(folder)).free for key, folder in places.items()}
    text = ", ".join(f"{_size(room)} free in {places[key]} ({key})" for key, room in rooms.items())
    free = min(rooms.values())
    if free < FREE_DISK:
        return fail(text, f"make room: {_size(FREE_DISK)} have to stay free")
    if free < LITTLE_DISK:
        return warn(text, "make room, or set cache_dir and state_dir to another disk: decoded images take 0.15 MB each")
    return ok(text)


def memory(_subject: Subject) -> Verdict:
    """Check the free memory for the model and its training."""
    free, total = _memory()
    text = f"{_size(free)} of {_size(total)} free"
    if free < NO_MEMORY:
        return fail(text, "end other programs, or give this machine more")
    if free < LITTLE_MEMORY:
        return warn(
            text, "large models may not fit; the server can set memory.micro_batch or a smaller data.image_size"
        )
    return ok(text)


def gpu(subject: Subject) -> Verdict:
    """Check the device for training."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return fail(f"PyTorch cannot be loaded: {error}", "install FedLens again")
    wanted = subject.site.device
    if not torch.cuda.is_available():
        return _without_cuda(wanted, subject.site.threads or torch.get_num_threads())
    index = torch.device(wanted if wanted.startswith("cuda") else "cuda").index or 0
    if index >= torch.cuda.device_count():
        return fail(f"device is {wanted}, and there are {torch.cuda.device_count()} GPUs", "count from cuda:0")
    name = torch.cuda.get_device_name(index)
    try:
        torch.ones(8, device=f"cuda:{index}").sum().item()
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        return fail(f"{name} does not work: {str(error).splitlines()[0]}", "see nvidia-smi; or set device: cpu")
    return ok(f"{name}, {_size(free)} of {_size(total)} free")


def _without_cuda(wanted: str, threads: int) -> Verdict:
    import torch

    if wanted.startswith("cuda") or NVIDIA_DRIVER.exists():
        why = "is built without CUDA" if torch.version.cuda is None else f"has CUDA {torch.version.cuda}"
        advice = "see nvidia-smi, and install the PyTorch that fits its driver; or set device: cpu"
        text = f"PyTorch cannot use a GPU of NVIDIA's here; it {why}"
        return fail(text, advice) if wanted.startswith("cuda") else warn(text, advice)
    if torch.backends.mps.is_available() and wanted in ("auto", "mps"):
        return ok("Apple's, by MPS")
    return ok(f"none: training uses the CPU, {threads} threads")


def _memory() -> tuple[int, int]:
    """Free and total bytes of memory, of the container or of the machine."""
    import psutil

    machine = psutil.virtual_memory()
    limit, used = (CONTAINER / name for name in ("memory.max", "memory.current"))
    if not limit.exists() or (text := limit.read_text().strip()) == "max":
        return machine.available, machine.total
    return min(machine.available, int(text) - int(used.read_text())), min(machine.total, int(text))


def _existing(folder: Path) -> Path:
    """`folder`, or its nearest existing parent."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"


def _size(nbytes: int) -> str:
    from rich.filesize import decimal

    return decimal(nbytes)
