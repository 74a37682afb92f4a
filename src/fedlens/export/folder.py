"""The folder of an export: made in one step, and never over anything but an earlier export."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedlens.errors import ConfigError
from fedlens.export.base import formats

PREPROCESSING = "preprocessing.json"
CLASS_NAMES = "class_names.json"
CARD = "README.md"

_MODEL_FILES = {".onnx", ".pt", ".pth", ".safetensors"}


def check_target(out: Path, replace: bool) -> None:
    """Check that an export can be written to `out`: a new or an empty folder or, to `replace`, an earlier export.

    Raises:
        ConfigError: it cannot.
    """
    if out.is_dir():
        _check_folder(out, replace)
    elif os.path.lexists(out):
        raise _exists(out, "there is a file of that name, and an export is a folder; give another name")
    elif out.suffix in _MODEL_FILES:
        raise ConfigError(
            f"--out {out}: an export is a folder with the model and its model card; name it without {out.suffix}",
            code="invalid_value",
            key="--out",
        )
    elif not out.absolute().parent.is_dir():
        raise unwritable(out, "there is no such folder to make it in")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write in, which takes the place of `out` at the end; after an error nothing of it is left, and `out`
    is as it was.

    Raises:
        ConfigError: the folder cannot be written.
    """
    place = out.resolve()  # "." has no name to put a temporary one beside
    temporary, old = (place.with_name(f".{place.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        temporary.mkdir()
        yield temporary
        _exchange(temporary, place, old)
    except OSError as error:
        raise unwritable(out, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unwritable(out: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"--out {out}: cannot be written ({reason}); give another folder", code="unwritable", key="--out"
    )


def _exchange(temporary: Path, out: Path, old: Path) -> None:
    if not out.exists():
        temporary.rename(out)
        return
    out.rename(old)
    try:
        temporary.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _check_folder(out: Path, replace: bool) -> None:
    found = sorted(path.name for path in out.iterdir())
    ours = {PREPROCESSING, CLASS_NAMES, CARD, *(name for entry in formats.entries() for name in entry.factory.files)}
    others = [name for name in found if name not in ours]
    if found and (others or PREPROCESSING not in found):
        raise _exists(out, f"there are other files in it ({(others or found)[0]}); give a new folder")
    if found and not replace:
        raise _exists(out, "there is an export already; --force replaces it")


def _exists(out: Path, reason: str) -> ConfigError:
    return ConfigError(f"--out {out}: {reason}", code="exists", key="--out")
