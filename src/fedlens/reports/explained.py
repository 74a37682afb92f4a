"""What limits a run, as a part of its report and as a page of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedlens.core.clean import escape
from fedlens.core.words import count
from fedlens.reports.figures.base import curves, from_zero
from fedlens.reports.page import page, plot, section, write_plot
from fedlens.tracking.findings import Commands, Finding

TITLE = "What limits this run"


def explained(findings: Sequence[Finding], commands: Commands) -> str:
    """A section with each finding: its evidence, the curve it is seen in, and what to try. Empty without findings."""
    return section(TITLE, *(_one(number, finding, commands) for number, finding in enumerate(findings, start=1)))


def _one(number: int, finding: Finding, commands: Commands) -> str:
    tried = "".join(f"<br><code>{escape(command)}</code>" for command in finding.commands(commands))
    ways = f"<br>Try:{tried}" if tried else ""
    advice = f"<br>{escape(finding.advice)}." if finding.advice else ""
    return plot(
        f"{number}. {finding.name}",
        f"{escape(finding.headline)}: {escape(finding.evidence)}.{ways}{advice}",
        from_zero(curves(finding.curve, finding.axis)),
    )


def write_explanation(name: str, findings: Sequence[Finding], commands: Commands, path: Path) -> None:
    """Write the page of the run called `name`.

    Raises:
        FedLensError: it cannot be written.
    """
    told = count(len(findings), "finding") if findings else "nothing found: no check says what to change"
    write_plot(page(name, told, [explained(findings, commands)], plotted=bool(findings)), path)
