"""Detects the format of a weights file by its content, and checks that declared sizes fit into the file.

Users give whatever a download produced: a git-lfs pointer, a web page, a file of another framework. A file may also be
crafted to exhaust the memory. Both are checked before a library reads it.
"""

from __future__ import annotations

import re
import struct
import zipfile
from mmap import ACCESS_READ, mmap
from typing import BinaryIO, Literal

from fedlens.errors import ModelError

Format = Literal["safetensors", "torch"]

MAX_NAMES = 10 * 2**20
"""Maximum bytes of the part that names the tensors; enough for some hundred thousand of them."""

MAX_PARTS = 65_534
"""Maximum tensors in a file of torch.save; more need another kind of zip."""

_SAVE = "torch.save(model.state_dict(), FILE)"
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a pointer of git-lfs, not the weights: run `git lfs pull` where it came from"),
    (b"\x89HDF", "is HDF5, as TensorFlow and Keras write it; give weights of PyTorch"),
    (b"\x93NUMPY", f"is a NumPy array; save the tensors by their names with {_SAVE}"),
    (b"GGUF", "is GGUF, for language models; give weights of PyTorch"),
    (b"\x1f\x8b", "is packed with gzip; unpack it first"),
    (b"Rar!", "is packed with rar; unpack it first"),
    (b"7z\xbc\xaf", "is packed with 7-Zip; unpack it first"),
)
_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)
_PICKLE = b"\x80"
_BUFFER = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")
"""A pickle's call for a buffer of any size, the only object that fills memory without content in the file. Memory that
torch allocates for tensors is checked against the file before it is used."""


def format_of(file: BinaryIO) -> Format:
    """The format of a weights file, independent of its name.

    Raises:
        ModelError: the format is not supported, or the file declares more tensors or bytes than it can hold; the
            message begins with a verb.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(512)
    if not start:
        raise ModelError("is empty: the download or the copy did not work")
    if why := next((why for begin, why in _STARTS if start.startswith(begin)), None):
        raise ModelError(why)
    if _PAGE.match(start):
        raise ModelError("is a web page, not weights: download the file itself (on GitHub: raw)")
    if start.startswith(b"PK"):
        _check_zip(file, size)
        return "torch"
    if start[8:9] == b"{":  # after the length of the header
        _check_names(int.from_bytes(start[:8], "little"), size)
        return "safetensors"
    if start.startswith(_PICKLE):
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            _check_pickle(content)
        return "torch"
    raise ModelError(_unknown(start))


def _check_names(names: int, size: int) -> None:
    if names > size - 8:
        raise ModelError("is cut: it ends before the names of its tensors do; download or copy it again")
    if names > MAX_NAMES:
        raise ModelError(f"names its tensors in {names:,} bytes, and at most {MAX_NAMES:,} are read: it has too many")


def _check_zip(file: BinaryIO, size: int) -> None:
    """Check that it is as torch.save writes it: not compressed, so that no entry is larger than the file."""
    file.seek(max(size - 22, 0))
    end = file.read()
    if end[:4] == b"PK\5\6" and struct.unpack("<H", end[10:12])[0] > MAX_PARTS:
        raise ModelError(f"has more than {MAX_PARTS:,} tensors")
    try:
        archive = zipfile.ZipFile(file)
        parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, struct.error) as error:
        raise ModelError("is cut or damaged: download or copy it again") from error
    names = [part.filename for part in parts]
    if all(name.endswith(".npy") for name in names):
        raise ModelError(f"holds NumPy arrays; save the tensors by their names with {_SAVE}")
    if any(name.endswith(("model.weights.h5", "saved_model.pb")) for name in names):
        raise ModelError("is a model of TensorFlow or Keras; give weights of PyTorch")
    if any(name.endswith("constants.pkl") for name in names):
        raise ModelError(f"is a TorchScript program; save its tensors with {_SAVE}")
    described = [part for part in parts if part.filename.endswith("data.pkl")]
    if not described:
        raise ModelError("is a zip archive without weights of PyTorch; unpack it first")
    if (longest := max(part.file_size for part in described)) > MAX_NAMES:
        raise ModelError(f"names its tensors in {longest:,} bytes, and at most {MAX_NAMES:,} are read")
    if sum(part.file_size for part in parts) > size:
        raise ModelError("claims to hold more bytes than it has")
    for part in described:
        _check_pickle(archive.read(part))


def _check_pickle(content: bytes | mmap) -> None:
    if _BUFFER.search(content):
        raise ModelError(refused_object("GLOBAL bytearray"))


def _unknown(start: bytes) -> str:
    if start[4:8] == b"TFL3":
        return "is a model of TensorFlow Lite; give weights of PyTorch"
    if start[:1] == b"\x08" and re.search(rb"pytorch|onnx|tf2onnx|keras|paddle", start, re.IGNORECASE):
        return "is an ONNX model; give weights of PyTorch"
    if start.lstrip()[:1] in (b"{", b"["):
        return "is JSON, which describes weights at most; give the .safetensors or .pth file itself"
    if start.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        return "is text, not weights; download or copy it again"
    return "is no weights file that is known: expected a .safetensors file, or a state dict saved by torch.save"


def refused_object(reason: str) -> str:
    """The unsupported object in a file that torch reads only by executing code. torch's own message advises to do that,
    so it is not shown."""
    found = re.search(r"GLOBAL (\S+)", reason)
    if found is None:
        return f"is cut or damaged, or holds other things than tensors; save them with {_SAVE}"
    return f"holds Python objects ({found.group(1)[:100]}) besides tensors; save the tensors alone: {_SAVE}"
