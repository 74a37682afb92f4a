"""How runs stand, from their folders."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedlens.tracking.metrics import newest_first
from fedlens.tracking.run_dir import RunDir, configuration
from fedlens.tracking.saved import Failure, Result, read_saved

State = Literal["running", "finished", "failed", "stopped", "elsewhere"]
"""stopped: interrupted or killed. elsewhere: another machine had it last, and whether that goes on cannot be seen."""


@dataclass(frozen=True)
class Standing:
    """Where a run is.

    word      why it has ended or failed, in its own words; which machine has it
    rounds    done; planned: of how many, None where its configuration does not say
    accuracy  the last that was measured: of the shared model, else of the clients' own
    idle      seconds since something was written
    """

    state: State
    word: str
    rounds: int
    planned: int | None
    accuracy: float | None
    idle: float


def standing(run: RunDir) -> Standing:
    """How the run stands.

    Raises:
        FedLensError: one of its files is damaged.
    """
    state, word = state_of(run)
    rounds, accuracy = 0, None
    for line in newest_first(run.metrics):
        rounds = max(rounds, line["round"])
        if measured := line["test"] or line["clients"]:
            accuracy = measured.get("accuracy")
            break
    return Standing(state, word, rounds, planned_rounds(configuration(run)), accuracy, time.time() - written(run))


def state_of(run: RunDir) -> tuple[State, str]:
    """The state, and the word that goes with it.

    Raises:
        FedLensError: the file that tells the end is damaged.
    """
    if run.is_in_use:
        return "running", ""
    if run.result.exists():
        return "finished", read_saved(run.result, Result).get("reason", "")
    if run.failure.exists():
        return "failed", read_saved(run.failure, Failure).get("error", "")
    if run.host not in ("", platform.node()):
        return "elsewhere", f"begun on {run.host}"
    return "stopped", ""


def written(run: RunDir) -> float:
    """When something of the run was written last, in seconds since 1970."""
    files = (run.metrics, run.result, run.failure, run.config)
    return max(file.stat().st_mtime for file in files if file.exists())


def planned_rounds(config: Mapping[str, Any]) -> int | None:
    """federated.num_rounds; None where the file does not say."""
    found = config.get("federated", {})
    planned = found.get("num_rounds") if isinstance(found, Mapping) else None
    return planned if isinstance(planned, int) else None
