"""`fedlens watch`: follow a run that another process does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedlens.tracking.console import ConsoleTracker
    from fedlens.tracking.run_dir import RunDir

LOOK_SECONDS = 0.5


def watch(
    folder: Annotated[Path, typer.Argument(help="The run's folder; default: the newest run.")] = Path("latest"),
) -> None:
    """Show a run's rounds, those that are done and those that come, until it ends. It may be the run of another
    machine, in a shared folder. Ctrl-C ends the watching, not the run."""
    from fedlens.cli.console import watcher
    from fedlens.errors import FedLensError
    from fedlens.explain.explain import explain
    from fedlens.tracking.next_steps import commands_of
    from fedlens.tracking.run_dir import RunDir, configuration
    from fedlens.tracking.state import state_of

    run = RunDir.open(folder)
    with watcher() as screen:
        follow(run, screen)
        state, word = state_of(run)
        if state == "finished":
            screen.finish(run.path, {}, explain(run.path))
            return
    raise FedLensError(
        f"{run.path}: {'it failed: ' + word if word else 'it was stopped'}. Go on with: "
        f"{commands_of(run, configuration(run)).resume}"
    )


def follow(run: RunDir, screen: ConsoleTracker) -> None:
    """Show every line of the run's metrics, until nobody trains it any more."""
    from fedlens.tracking.run_dir import configuration
    from fedlens.tracking.state import planned_rounds, state_of
    from fedlens.tracking.summary import algorithm_name

    config, shown = configuration(run), 0
    method, model = algorithm_name(config), str(config.get("model", {}).get("name", "–"))
    screen.start({"folder": str(run.path), "method": method, "model": model}, planned_rounds(config) or 0, 0)
    if state_of(run)[0] == "elsewhere":
        screen.note(f"{run.host} has it; whether it still trains there cannot be seen from here: Ctrl-C ends watching")
    size = 0
    while True:
        going = state_of(run)[0] in ("running", "elsewhere")  # before the lines are read: the last ones are not missed
        if run.metrics.exists() and (now := run.metrics.stat().st_size) != size:
            size = now
            for line in reversed(newer(run, shown)):
                screen.line(line)
                shown = line["round"]
        if not going:
            return
        screen.wait()
        time.sleep(LOOK_SECONDS)


def newer(run: RunDir, shown: int) -> list[dict[str, Any]]:
    """The lines of rounds after that one, the newest first."""
    from fedlens.tracking.metrics import newest_first

    found = []
    for line in newest_first(run.metrics):
        if line["round"] <= shown:
            break
        found.append(line)
    return found
