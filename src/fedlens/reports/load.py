"""Reads the saved files of a finished or unfinished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedlens.core.yaml_text import read_file
from fedlens.errors import FedLensError
from fedlens.explain.explain import explain
from fedlens.tracking.findings import Finding
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.missing_rounds import missing_rounds
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.saved import Anything, Confusion, CrossSite, Data, Partition, Result, read_saved


@dataclass(frozen=True)
class LoadedRun:
    """One run as plain values; what it has not written yet is empty.

    config     the resolved configuration
    metrics    one mapping per round, oldest first (keys: `tracking.metrics.line_of`)
    partition  class_names, clients → split → counts by class, test → counts by class
    confusion  round, test and validation matrices (true by predicted) of the last evaluation
    data       read, skipped [(file, reason)], notes, unit
    fingerprint  identifies the data set
    result     reason and end of a finished run
    pictures   test images with their predictions (`tracking.pictures`)
    nearest_texts  test images with the texts that a dual encoder finds nearest (`tracking.nearest_texts`)
    cross_site  accuracies of clients' own models at each other (`tracking.saved.CrossSite`)
    """

    folder: RunDir
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    partition: Mapping[str, Any]
    confusion: Mapping[str, Any]
    data: Mapping[str, Any]
    result: Mapping[str, Any]
    fingerprint: str | None
    pictures: Mapping[str, Any]
    nearest_texts: Mapping[str, Any]
    cross_site: Mapping[str, Any]

    @property
    def missing_rounds(self) -> list[int]:
        """Completed rounds without a line in the metrics file."""
        return missing_rounds(self.metrics, self.folder.rounds_done)

    @cached_property
    def findings(self) -> list[Finding]:
        """What limits the run, the strongest first."""
        return explain(self.folder.path)

    @property
    def unit(self) -> str:
        """The singular of what the model takes: "image", or "row"."""
        return str(self.data.get("unit", "image"))

    @property
    def class_names(self) -> list[str]:
        """Names by label; numbers if the partition has no names."""
        matrix = self.confusion.get("test") or self.confusion.get("validation") or []
        return list(self.partition.get("class_names") or map(str, range(len(matrix))))


def load_run(folder: Path) -> LoadedRun:
    """Read the run in `folder`.

    Raises:
        ConfigError: there is no run.
        FedLensError: one of its files is damaged; the message names it.
    """
    run = RunDir.open(folder)
    return LoadedRun(
        folder=run,
        config=_config(run.config),
        versions=_read(run.versions, Anything),
        metrics=read_metrics(run.metrics),
        partition=_read(run.partition, Partition),
        confusion=_read(run.confusion, Confusion),
        data=_read(run.data, Data),
        result=_read(run.result, Result),
        fingerprint=read_saved(run.fingerprint, str) if run.fingerprint.exists() else None,
        pictures=_read(run.pictures, Anything),
        nearest_texts=_read(run.nearest_texts, Anything),
        cross_site=_read(run.cross_site, CrossSite),
    )


def _read(path: Path, form: Any) -> Mapping[str, Any]:
    saved: Mapping[str, Any] = read_saved(path, form) if path.exists() else {}
    return saved


def _config(path: Path) -> Mapping[str, Any]:
    """The resolved configuration; checks only that its sections are mappings."""
    text = read_file(path)
    for name, value in text.tree.items():
        if not isinstance(value, Mapping) and name not in _VALUES:
            raise FedLensError(f"{path}, line {text.lines[name,]}: {name} must be a section of keys; mend the file")
    return text.tree


_VALUES = ("seed", "plugins")
"""Configuration keys that are not sections."""
