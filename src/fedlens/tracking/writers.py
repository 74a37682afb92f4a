"""Where the figures of a run are written for people: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlens.config import problems
from fedlens.config.schema import Config
from fedlens.core import clean
from fedlens.errors import ConfigError
from fedlens.tracking.hyper_parameters import Value
from fedlens.tracking.run_dir import RunDir

EXTRAS = ("mlflow", "wandb")
"""Keys of `tracking` whose library is an extra. Key, package and extra have one name."""


SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Variables whose values are never shown."""

LONGEST_REASON = 300


class Writer(Protocol):
    """One program's way to keep a run. Any error of it ends the writing there, not the run."""

    def open(self, earlier: Sequence[Mapping[str, Any]]) -> None:
        """Begin. `earlier`: the lines of the rounds that a resumed run has done already."""
        ...

    def scalars(self, number: int, values: Mapping[str, float]) -> None:
        """The numbers of a round, by tag."""
        ...

    def picture(self, tag: str, image: NDArray[np.uint8], number: int) -> None:
        """`image` (H, W, 3) as it is after round `number`."""
        ...

    def finish(self, parameters: Mapping[str, Value], final: Mapping[str, float]) -> None:
        """All rounds are done: what differs from the defaults, and the final metrics."""
        ...

    def report(self, path: Path) -> None:
        """The report of the finished run."""
        ...

    def close(self, ended: bool) -> None:
        """`ended`: the run ended as it should; False: by an error or a signal."""
        ...


class Writers:
    """The writers of one run, by their key in `tracking`. One that fails is told in one note and left out from then
    on: what it lacks is on disk, and it is no reason to lose a run."""

    def __init__(self, writers: Mapping[str, Writer], note: Callable[[str], None]) -> None:
        self._writers = dict(writers)
        self._note = note

    def __bool__(self) -> bool:
        return bool(self._writers)

    def tell(self, what: Callable[[Writer], None]) -> None:
        """Do `what` with each of them."""
        for key, writer in list(self._writers.items()):
            try:
                what(writer)
            except Exception as error:
                del self._writers[key]
                self._note(
                    f"tracking.{key}: {_brief(error)}. The run goes on without it; a resume of this run, also when it "
                    "has ended, tries again and adds the rounds that are missing there"
                )


@contextmanager
def writing(config: Config, folder: RunDir, note: Callable[[str], None]) -> Iterator[Writers]:
    """The writers that `config` names, closed at the end, also after an error."""
    writers = Writers(dict(_named(config, folder)), note)
    try:
        yield writers
    except BaseException:
        writers.tell(lambda writer: writer.close(ended=False))
        raise
    writers.tell(lambda writer: writer.close(ended=True))


def check_writers(config: Config) -> None:
    """Before anything is read or started.

    Raises:
        ConfigError: a package is not installed; names the extra.
    """
    for key in EXTRAS:
        if getattr(config.tracking, key) and find_spec(key) is None:
            text = f"needs the extra: pip install 'fedlens[{key}]'"
            raise ConfigError(problems.problem("unavailable", f"tracking.{key}", text, True))


def _named(config: Config, folder: RunDir) -> Iterator[tuple[str, Writer]]:
    if config.tracking.tensorboard:
        from fedlens.tracking.tensorboard import TensorBoardWriter

        yield "tensorboard", TensorBoardWriter(folder.path)
    if config.tracking.mlflow:
        from fedlens.tracking.mlflow import MLflowWriter

        yield "mlflow", MLflowWriter(folder, config)
    if config.tracking.wandb:
        from fedlens.tracking.wandb import WandbWriter

        yield "wandb", WandbWriter(folder, config)


def _brief(error: Exception) -> str:
    """The first line of what went wrong, without passwords: libraries quote what they were given."""
    told = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    for secret in filter(None, map(os.environ.get, SECRETS)):
        told = told.replace(secret, "…")
    return clean.line(re.sub(r"//[^/@\s]+@", "//…@", told), LONGEST_REASON).rstrip(". ")
