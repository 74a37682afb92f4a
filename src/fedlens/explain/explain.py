"""The findings of a run that is on the disk."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fedlens.errors import FedLensError
from fedlens.explain.checks import findings
from fedlens.explain.evidence import Evidence
from fedlens.explain.proposals import workable
from fedlens.tracking.findings import Finding
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir, configuration
from fedlens.tracking.saved import Partition, read_saved


def explain(folder: Path) -> list[Finding]:
    """What limits the run in `folder`, the strongest first.

    Raises:
        ConfigError: there is no run.
        FedLensError: one of its files is damaged; the message names it.
    """
    run = RunDir.open(folder)
    seen = evidence(run)
    return workable(findings(seen), seen, run.config)


def evidence(run: RunDir) -> Evidence:
    """What the files of `run` say.

    Raises:
        FedLensError: one of them is damaged; the message names it.
    """
    partition = read_saved(run.partition, Partition) if run.partition.exists() else {}
    return Evidence(
        configuration(run), read_metrics(run.metrics), partition, lambda: _tensors(run), remote=run.superlink.exists()
    )


def _tensors(run: RunDir) -> Collection[str]:
    """Names of the last model's tensors; none before there is one."""
    from safetensors import SafetensorError, safe_open

    weights = run.model / "model.safetensors"
    if not weights.exists():
        return ()
    try:
        with safe_open(weights, "np") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise FedLensError(f"{weights}: no whole file of tensors ({error}); mend it, or leave this run out") from error
