"""Reading back what a run left on the disk, finished or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedlens.errors import FedLensError
from fedlens.files import read_json
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir


@dataclass(frozen=True)
class LoadedRun:
    """One run as plain values; what it has not written (yet) is empty.

    config     the resolved configuration
    metrics    one mapping a round, oldest first (keys: `tracking.metrics.line_of`)
    partition  class_names, clients → split → counts by class, test → counts by class
    confusion  round, test and validation matrices (true by predicted) of the last evaluation
    data       read, skipped [(file, reason)], notes
    result     reason and end of a finished run
    pictures   test images with what they were taken for (`tracking.pictures`)
    """

    folder: RunDir
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    partition: Mapping[str, Any]
    confusion: Mapping[str, Any]
    data: Mapping[str, Any]
    result: Mapping[str, Any]
    pictures: Mapping[str, Any]

    @property
    def class_names(self) -> list[str]:
        """Names by label; numbers where the partition does not say."""
        matrix = self.confusion.get("test") or self.confusion.get("validation") or []
        return list(self.partition.get("class_names") or map(str, range(len(matrix))))


def load_run(folder: Path) -> LoadedRun:
    """Read the run in `folder`.

    Raises:
        ConfigError: there is no run.
        FedLensError: one of its files is damaged; the message names it.
    """
    run = RunDir.open(folder)
    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise FedLensError(f"{run.config}: not YAML; mend the file or leave this run out") from error
    return LoadedRun(
        folder=run,
        config=config or {},
        versions=_read(run.versions),
        metrics=read_metrics(run.metrics),
        partition=_read(run.partition),
        confusion=_read(run.confusion),
        data=_read(run.data),
        result=_read(run.result),
        pictures=_read(run.pictures),
    )


def _read(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        content: Mapping[str, Any] = read_json(path)
    except json.JSONDecodeError as error:
        raise FedLensError(f"{path}: not JSON; mend the file or leave this run out") from error
    return content
