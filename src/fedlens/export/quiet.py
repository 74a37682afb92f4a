"""Foreign exporters and readers, made fit for users."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from warnings import catch_warnings, simplefilter

import torch

from fedlens.core import clean
from fedlens.errors import FedLensError, ModelError


def count_devices() -> None:
    """Let PyTorch count the devices now, which it does at the first backward pass of a process. What ONNX' exporter
    imports adds one, for which a later first pass would start threads; a process that has them cannot be forked."""
    torch.zeros(1, requires_grad=True).sum().backward()


@contextmanager
def exporting(model: str | None, name: str) -> Iterator[None]:
    """Around what writes and runs `model` in the format `name`: what others warn of and print is not for users, and
    their errors become one line.

    Raises:
        ModelError: the model cannot be exported so.
    """
    count_devices()
    logged = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            simplefilter("ignore")
            yield
    except (FedLensError, OSError):
        raise
    except Exception as error:  # exporters raise whatever the code that they follow raises
        cause = error.__cause__ or error
        reason = clean.line(str(cause).strip().partition("\n")[0] or type(cause).__name__, 200)
        raise ModelError(
            f"--format {name}: model.name={model} cannot be exported so ({reason}); use another --format"
        ) from error
    finally:
        logging.disable(logged)
