"""What limits a run, as people are told it. `fedlens.explain` finds it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["cause", "symptom", "time"]

Curve = Mapping[str, Sequence[tuple[int, float | None]]]
"""Lines of one plot: name → (round, value); None where a round has no value."""


@dataclass(frozen=True)
class Commands:
    """again: the command that started the run, "" if a Python program did so with its own objects; resume: the command
    that resumes it, with its folder."""

    again: str
    resume: str
    resumed: Callable[[str], str] | None = None
    """`resume` with an override; default: that at its end, as on a command line."""

    def longer(self, rounds: int) -> str:
        """`resume` to so many rounds."""
        override = f"federated.num_rounds={rounds}"
        return self.resumed(override) if self.resumed else f"{self.resume} {override}"

    def changed(self, changes: Mapping[str, str]) -> str:
        """`again` with other values. Keys of a replaced block are dropped."""
        gone = tuple(key.removesuffix("name") if key.endswith(".name") else f"{key}=" for key in changes)
        kept = [word for word in shlex.split(self.again) if not word.startswith(gone)]
        return shlex.join([*kept, *(f"{key}={value}" for key, value in changes.items())])


@dataclass(frozen=True)
class Finding:
    """One thing that limits a run.

    name      of the check that found it
    says      what it is, in one sentence without a full stop
    evidence  the figures it rests on
    strength  the decisive figure, divided by the value from which it counts
    kind      cause: of what is learnt too badly; symptom: a consequence, whose cause may be another finding; time: the
              run is slower than it has to be
    changes   values of keys to try in a new run, the best first; each is one command
    rounds    or: rounds to resume the run to
    advice    what to do, where no command does it
    curve     where it is seen, by round
    axis      the label of the curve's values
    """

    name: str
    says: str
    evidence: str
    strength: float
    kind: Kind = "cause"
    changes: Sequence[Mapping[str, str]] = ()
    rounds: int | None = None
    advice: str = ""
    curve: Curve = field(default_factory=dict)
    axis: str = "loss"

    @property
    def headline(self) -> str:
        """What it is, as the beginning of a sentence."""
        return self.says[:1].upper() + self.says[1:]

    def commands(self, commands: Commands) -> list[str]:
        """The commands to try."""
        longer = [] if self.rounds is None else [commands.longer(self.rounds)]
        return [*longer, *(commands.changed(change) for change in self.changes)]

    def line(self, commands: Commands) -> str:
        """All of it in one line, with the first command."""
        tried = self.commands(commands)
        ways = [f"Try: {tried[0]}" if tried else "", self.advice]
        return f"{self.headline}: {self.evidence}. {'. '.join(filter(None, ways))}".strip()


TOLD = 2
"""Findings that are told at the end of a run."""


def problems(findings: Sequence[Finding], commands: Commands) -> list[str]:
    """The strongest findings as lines, without those that only cost time."""
    return [one.line(commands) for one in findings if one.kind != "time"][:TOLD]
