"""Suppresses messages that image libraries print themselves; the caller reports damaged files.

libpng, libjpeg and libtiff write directly to file descriptor 2; Pillow uses `warnings`, tifffile `logging`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import cv2

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
for _library in ("PIL", "tifffile"):
    logging.getLogger(_library).addHandler(logging.NullHandler())  # else Python prints their warnings


class _Silence:
    """Descriptor 2 and the warning filters are process-wide: the first thread that enters changes them, the last one
    that leaves restores them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._undo = ExitStack()

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                self._undo.enter_context(_stderr_closed())
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo.close()


_SILENCE = _Silence()


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output of libraries inside, in all threads. Meant for short calls."""
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Discard output to descriptor 2."""
    try:
        kept = os.dup(2)
    except OSError:  # a process without standard error
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
