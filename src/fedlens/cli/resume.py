"""`fedlens resume`: resume a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def resume(
    folder: Annotated[
        Path, typer.Argument(help="The run's folder, such as logs/fedavg-cnn-20250101-120000; latest: the newest run.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="What may change: federated.num_rounds=40, data.path=FOLDER"),
    ] = None,
) -> None:
    """Resume a stopped run from its last valid checkpoint."""
    from fedlens import api
    from fedlens.cli.console import terminal

    with terminal() as observer:
        api.resume(folder, *(overrides or []), show=observer)
