"""Suggested commands after a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fedlens.tracking.findings import Commands
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir, configuration, find_runs
from fedlens.tracking.saved import Partition, read_saved
from fedlens.tracking.summary import is_personal, last_with


def next_commands(folder: Path, again: str) -> list[str]:
    """Up to three useful commands that can work after a run that `again` started."""
    place = shlex.quote(str(folder.parent))
    run, config = RunDir(folder), configuration(RunDir(folder))
    given = from_python(config)
    commands = [f"tensorboard --logdir {place}"]
    if "model" not in given and not (given and is_personal(config)):
        commands.insert(0, f"fedlens predict {shlex.quote(str(folder))} photo.jpg{whose(run)}")
    if len(find_runs(folder.parent)) > 1:
        commands.append(f"fedlens compare {place}")
    elif not given:
        commands.append(_another(run, again))
    return commands


def from_python(config: Mapping[str, Any]) -> list[str]:
    """What a Python program passed to the run, "data", "model" or "strategy": commands cannot repeat such a run."""
    named = {"data": "source", "model": "name", "strategy": "name"}
    names = {section: str(config.get(section, {}).get(key)) for section, key in named.items()}
    return [section for section, name in names.items() if name.partition(".")[0] == "python"]


def resuming(folder: str, command: str, *overrides: str) -> str:
    """How to resume a run: with `command`, or from Python, where the same objects must be passed again."""
    given = from_python(configuration(RunDir(Path(folder))))
    return resuming_in_python(folder, *overrides) if given else f"{command} {shlex.join([folder, *overrides])}"


def resuming_in_python(folder: str, *overrides: str) -> str:
    """How a Python program resumes a run: with the objects that it passed to the run."""
    given = from_python(configuration(RunDir(Path(folder))))
    return f"fedlens.resume({', '.join([*map(repr, (folder, *overrides)), *(f'{name}=…' for name in given)])})"


def commands_of(run: RunDir, config: Mapping[str, Any]) -> Commands:
    """The commands of advice in a report or a notebook, where the command that started the run is not known."""
    server = run.superlink.exists()
    again = "" if from_python(config) else f"fedlens {'server' if server else 'run'} {shlex.quote(str(run.config))}"
    return commands(again, str(run.path), "fedlens server --resume" if server else "fedlens resume")


def commands(again: str, folder: str, resume: str) -> Commands:
    """The commands for the run in `folder`: `again` started it, `resume` and the folder resume it."""
    return Commands(again, resuming(folder, resume), partial(resuming, folder, resume))


def _another(run: RunDir, again: str) -> str:
    """`again` with a change to compare with: another strategy or, if nothing is shared, a federation."""
    tried = {section: configuration(run).get(section, {}).get("name") for section in ("personalization", "strategy")}
    if tried["personalization"] == "local":
        section, name = "personalization", "none"
    else:
        section, name = "strategy", "fedavgm" if tried["strategy"] == "fedprox" else "fedprox"
    kept = [word for word in shlex.split(again) if not word.startswith(f"{section}.")]
    return shlex.join([*kept, f"{section}.name={name}"])


def whose(run: RunDir) -> str:
    """The option that names a benign client, if clients have their own models and are on this machine."""
    if run.superlink.exists() or not run.partition.exists() or not run.config.exists():
        return ""
    if not is_personal(configuration(run)):
        return ""
    clients = read_saved(run.partition, Partition)["clients"]
    evaluated = (last_with(read_metrics(run.metrics), "clients") or {}).get("by_client", [])
    malicious = {one["client"] for one in evaluated if one.get("malicious")}
    return f" --client {shlex.quote(next((name for name in clients if name not in malicious), next(iter(clients))))}"
