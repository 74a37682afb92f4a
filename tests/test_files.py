import json
import os
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedlens.core.files import open_regular, read_json, read_regular, to_json, write_atomic, write_json


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A real write error: the kernel refuses files over `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "state.bin"
    write_atomic(path, b"old")
    with files_up_to(1_000_000), pytest.raises(OSError, match="large"):
        write_atomic(path, b"n" * 2_000_000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_replaces_text_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_atomic(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    write_atomic(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"


def test_json_is_strict(tmp_path: Path) -> None:
    value = {"loss": float("nan"), "rows": [1.5, float("inf")], "pair": (1, 2), 3: "ü"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {"loss": None, "rows": [1.5, None], "pair": [1, 2], "3": "ü"}
    assert json.loads(to_json(value), parse_constant=pytest.fail)["loss"] is None


def test_what_json_can_hold_is_written_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it would take longer than writing it: partitions have millions of numbers."""
    monkeypatch.setattr("fedlens.core.files._finite", pytest.fail)
    assert to_json({"é": (1, [2.5, None])}) == '{"é": [1, [2.5, null]]}'


def test_only_regular_files_of_a_bounded_length_are_read(tmp_path: Path) -> None:
    file, link, pipe = tmp_path / "a", tmp_path / "link", tmp_path / "pipe"
    file.write_bytes(b"12345")
    link.symlink_to(file)
    os.mkfifo(pipe)
    assert read_regular(link) == read_regular(file, 5) == b"12345"
    tracemalloc.start()
    read_regular(file, 2**30)
    assert tracemalloc.get_traced_memory()[1] < 2**20, "memory is taken for the file, not for the limit"
    tracemalloc.stop()
    with open_regular(file, 5) as opened:
        assert opened.read(2) == b"12"
    for path, reason in {
        file: "the file is 5 bytes long, and at most 4 are read",
        pipe: "a named pipe, not a regular file",  # nobody writes to it: reading would wait for ever
        tmp_path: "Is a directory",
        Path("/dev/zero"): "a device, not a regular file",
    }.items():
        with pytest.raises(OSError, match=reason):
            read_regular(path, 4)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")
