"""A run as a cell of a notebook shows it: headline, curve and links."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedlens.core.clean import escape
from fedlens.tracking.curve import Curve
from fedlens.tracking.findings import Finding, problems
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.next_steps import commands_of
from fedlens.tracking.result import result_lines
from fedlens.tracking.run_dir import RunDir, configuration
from fedlens.tracking.saved import Result, read_saved
from fedlens.tracking.state import planned_rounds
from fedlens.tracking.summary import algorithm_name, is_personal

_ELSEWHERE = ("folder", "report")
"""Lines of the result that the card shows as links."""


def card(folder: Path, findings: Sequence[Finding]) -> str:
    """HTML for the run in `folder`, with the strongest of its findings. Every text from its files is escaped.

    Raises:
        ConfigError: there is no run.
        FedLensError: one of its files is damaged; the message names it.
    """
    run = RunDir.open(folder)
    metrics, config = read_metrics(run.metrics), configuration(run)
    figures = result_lines(metrics, run, is_personal(config)) if metrics else {}
    rows = "".join(
        f'<tr><td style="text-align: left">{escape(name)}</td><td style="text-align: left">{escape(value)}</td></tr>'
        for name, value in figures.items()
        if name not in _ELSEWHERE
    )
    hint = "".join(f"<p>{escape(line)}</p>" for line in problems(findings, commands_of(run, config)))
    model = config.get("model", {}).get("name", "")
    title = " · ".join(escape(str(part)) for part in (algorithm_name(config), model, _state(run, metrics, config)))
    return (
        f"<p><b>{escape(run.name)}</b><br>{title}</p><table>{rows}</table>"
        f"{Curve(metrics).picture()}{hint}<p>{_links(run)}</p>"
    )


def _state(run: RunDir, metrics: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    """ "finished: all 12 rounds done"; "3 of 12 rounds done"."""
    if run.result.exists():  # shown at the end of the run, too, while its process still holds it
        return f"finished: {read_saved(run.result, Result).get('reason', '')}"
    return f"{metrics[-1]['round'] if metrics else 0} of {planned_rounds(config)} rounds done"


def _links(run: RunDir) -> str:
    """The run's files, relative to the notebook where they are below its folder: its page serves no others."""
    files = {"report": run.report, "metrics": run.metrics, "configuration": run.config}
    links = (f'<a href="{_target(path)}" target="_blank">{name}</a>' for name, path in files.items() if path.exists())
    return " · ".join([*links, f"<code>{escape(str(run.path))}</code>"])


def _target(path: Path) -> str:
    here = os.path.relpath(path.resolve())
    return path.resolve().as_uri() if here.startswith("..") else quote(Path(here).as_posix())
