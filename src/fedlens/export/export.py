"""One export from start to end: the model is read, written, read again, tried, and described."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedlens.core.files import write_atomic, write_json
from fedlens.errors import ModelError
from fedlens.export.agreement import Agreement, compare
from fedlens.export.base import Format, formats
from fedlens.export.card import card
from fedlens.export.folder import CARD, CLASS_NAMES, PREPROCESSING, check_target, new_folder
from fedlens.export.quiet import exporting
from fedlens.export.source import Source, open_source
from fedlens.training.device import enough_memory


@dataclass(frozen=True)
class Exported:
    """folder: what was written; version: what the format says of its files."""

    folder: Path
    chosen: Format
    version: str
    source: Source
    agreement: Agreement


@enough_memory()
def export_run(
    run: Path, name: str, out: Path, *, client: str | None = None, best: bool = False, force: bool = False
) -> Exported:
    """Export a model of the run in the folder `run` as the format `name`, to the folder `out`.

    Raises:
        FedLensError: what is wrong, and the way out; `out` is as it was.
    """
    chosen = formats.get(name).build({})
    check_target(out, force)
    source = open_source(run, client, best)
    chosen.check(source.trained)
    with new_folder(out) as folder:
        with exporting(source.trained.description.builder, name), enough_memory():
            version = chosen.write(source.trained, folder)
            agreement = compare(source.trained.model, chosen.open(folder), source.probe.pixels)
        _check(agreement, source, name)
        write_json(folder / PREPROCESSING, {**source.trained.preprocessing, "inside_model": chosen.whole})
        write_json(folder / CLASS_NAMES, source.trained.outputs)
        write_atomic(folder / CARD, card(source, chosen, version, agreement))
    return Exported(out, chosen, version, source, agreement)


def _check(agreement: Agreement, source: Source, name: str) -> None:
    if not agreement.holds:
        raise ModelError(
            f"--format {name}: the exported model differs from the original by {agreement.largest:.2g} on "
            f"{source.probe.what}, and {agreement.tolerance:.2g} is allowed; nothing was written; use another --format"
        )
