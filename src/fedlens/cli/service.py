"""`fedlens server --service`: one run, from its start to its end, in a process that may be started again and again."""

from __future__ import annotations

import re
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedlens.config.schema import Config
    from fedlens.tracking.run_dir import RunDir


def serve_until_stopped(path: Path | None, overrides: list[str]) -> None:
    """Start the run, or resume it; when it has ended, wait for the signal that ends this process.

    The run is the newest one in tracking.dir that has the configuration's name. A resumed run keeps its own
    configuration; of `overrides`, only those count that a resumed run may change.

    Raises:
        FedLensError: as `api.serve` and `api.serve_on`.
    """
    from fedlens import api
    from fedlens.cli.console import terminal

    config = api.resolve(path, overrides)
    again = shlex.join(["fedlens", "server", *map(str, [path] if path else []), *overrides])
    with terminal(again, resume="fedlens server --resume") as observer:
        found = newest_named(config.tracking.dir, api.run_name(config))
        if found is None:
            api.serve(path, *overrides, show=observer)
        elif not found.result.exists():
            observer.note(f"going on with {found.path}, with the configuration that it began with")
            allowed = [override for override in overrides if override.startswith(api.MAY_CHANGE)]
            api.serve_on(found.path, *allowed, show=observer)
        else:
            observer.note(f"{found.path} is finished")
        observer.note("this server waits until it is stopped; for another run, start it with another tracking.name")
    _wait(config)


def newest_named(base: Path, name: str) -> RunDir | None:
    """The newest run in `base` that was started under `name`."""
    from fedlens.tracking.run_dir import clean_name, find_runs

    wanted = re.compile(re.escape(clean_name(name)) + r"-\d{8}-\d{6}(-\d+)?")
    runs = find_runs(base) if base.is_dir() else []
    return next((run for run in reversed(runs) if wanted.fullmatch(run.name)), None)


def _wait(config: Config) -> None:
    """Hold the server's port, so that `fedlens health server` finds it; clients that stay try again later."""
    from fedlens.flower.addresses import bind_address

    host, port = bind_address(config)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        while True:
            listener.accept()[0].close()
