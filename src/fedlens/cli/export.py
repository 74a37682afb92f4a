"""`fedlens export`: a trained model in a format that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlens.core import clean

if TYPE_CHECKING:
    from fedlens.export.export import Exported

_LABELS = 14
"""Columns of a line's label."""


def export(
    run: Annotated[Path, typer.Argument(help="a finished run's folder; latest: the newest run")],
    name: Annotated[str, typer.Option("--format", metavar="NAME", help="onnx, torchscript, safetensors or timm")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="a new folder: model, preprocessing, model card")],
    client: Annotated[str | None, typer.Option(help="a client of the run: the model that it uses itself")] = None,
    best: Annotated[
        bool, typer.Option("--best", help="the model with the lowest validation loss, not the last")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an earlier export")] = False,
) -> None:
    """Write a trained model for other programs, with a model card.

    The exported model is run on test images and compared with the original; one that answers otherwise is not kept.
    """
    from fedlens.export.export import export_run

    done = export_run(run, name, out, client=client, best=best, force=force)
    for note in done.source.notes:
        typer.echo(clean.block(f"note: {note}"), err=True)
    for label, text in lines(done):
        typer.echo(f"{label:{_LABELS}}{clean.block(text)}")


def lines(done: Exported) -> list[tuple[str, str]]:
    """What was written, and how well it agrees with the original."""
    found = done.agreement
    sizes = [
        f"{path.name} ({path.stat().st_size / 1e6:,.1f} MB)" for path in map(done.folder.joinpath, done.chosen.files)
    ]
    return [
        ("tried on", done.source.probe.what),
        ("outputs", f"largest difference {found.largest:.1e}; up to {found.tolerance:.1e} is allowed"),
        ("top class", f"the same for {found.same:,} of {found.images:,}"),
        ("format", done.version),
        ("folder", f"{done.folder}: {', '.join(sizes)}, with preprocessing, class names and model card"),
    ]
