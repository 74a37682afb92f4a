"""`fedlens server --service` and `--resume auto`: one run, from its start to its end, in a process that may be started
again and again."""

from __future__ import annotations

import re
import shlex
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedlens.config.schema import Config
    from fedlens.tracking.console import ConsoleTracker
    from fedlens.tracking.run_dir import RunDir


def serve_until_stopped(path: Path | None, overrides: list[str]) -> None:
    """`--service`: start the run, or resume it; when it has ended, wait for the signal that ends this process.

    The run is the newest one in tracking.dir that has the configuration's name.

    Raises:
        FedLensError: as `api.serve` and `api.serve_on`.
    """
    from fedlens import api

    config = api.resolve(path, overrides)
    with _screen(path, overrides) as observer:
        found = newest_named(config.tracking.dir, api.run_name(config))
        if found is not None and found.result.exists():
            observer.note(f"{found.path} is finished")
        else:
            _start_or_resume(found, path, overrides, observer)
        observer.note("this server waits until it is stopped; for another run, start it with another tracking.name")
    _wait(config)


def serve_unfinished(path: Path | None, overrides: list[str]) -> None:
    """`--resume auto`: resume the newest run of the configuration's name where it is unfinished, else start one.

    Raises:
        FedLensError: as `api.serve` and `api.serve_on`.
    """
    from fedlens import api

    config = api.resolve(path, overrides)
    found = newest_named(config.tracking.dir, api.run_name(config))
    with _screen(path, overrides) as observer:
        _start_or_resume(None if found and found.result.exists() else found, path, overrides, observer)


def _screen(path: Path | None, overrides: list[str]) -> AbstractContextManager[ConsoleTracker]:
    from fedlens.cli.console import terminal

    again = shlex.join(["fedlens", "server", *map(str, [path] if path else []), *overrides])
    return terminal(again, resume="fedlens server --resume")


def _start_or_resume(
    unfinished: RunDir | None, path: Path | None, overrides: list[str], observer: ConsoleTracker
) -> None:
    """A resumed run keeps its own configuration; of `overrides`, only those count that a resumed run may change."""
    from fedlens import api

    if unfinished is None:
        api.serve(path, *overrides, show=observer)
    else:
        observer.note(f"going on with {unfinished.path}, with the configuration that it began with")
        allowed = [override for override in overrides if override.startswith(api.MAY_CHANGE)]
        api.serve_on(unfinished.path, *allowed, show=observer)


def newest_named(base: Path, name: str) -> RunDir | None:
    """The newest run in `base` that was started under `name`."""
    from fedlens.tracking.run_dir import clean_name, find_runs

    wanted = re.compile(re.escape(clean_name(name)) + r"-\d{8}-\d{6}(-\d+)?")
    runs = find_runs(base) if base.is_dir() else []
    return next((run for run in reversed(runs) if wanted.fullmatch(run.name)), None)


def _wait(config: Config) -> None:
    """Hold the server's port, so that `fedlens health server` finds it; clients that stay try again later.

    Raises:
        ConnectionFailed: another program has taken the port.
    """
    from fedlens.flower.addresses import bind_address, check_free

    host, port = bind_address(config)
    check_free(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        while True:
            listener.accept()[0].close()
