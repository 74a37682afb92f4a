"""`fedlens doctor --config config.yaml`: which settings to take on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from fedlens.measuring.advice import Advice, Row

HEAD = ("settings", "a step", "a round", "evaluation", "memory", "the whole run")
MARKED = " *"
BUSY = 0.2
"""Part of the cores; what others use above it disturbs the measurements."""

SMALLEST_HALVED = 64
"""Images of fewer pixels than these are not worth a hint to halve them."""


def is_experiment(path: Path) -> bool:
    """Whether a file is the configuration of a run, and not a site.yaml: it has a section that only the former has.

    Raises:
        ConfigError: it cannot be read.
    """
    from fedlens.config.overrides import file_layer
    from fedlens.config.schema import Config
    from fedlens.config.site import SiteConfig

    return bool(file_layer(path).tree.keys() & (Config.model_fields.keys() - SiteConfig.model_fields.keys()))


def advise_settings(path: Path, overrides: Sequence[str], seconds: float | None, apply: bool, as_json: bool) -> None:
    """Measure, print what was found, and write the proposed lines into the file if `apply`."""
    from fedlens.config.edit import read_text, write_values
    from fedlens.core.files import to_json
    from fedlens.errors import RuntimeFailure
    from fedlens.measuring.advice import BUDGET, advise

    before = read_text(path)
    with closing(MeasuringScreen()) as screen:
        advice = advise(path, overrides, screen.progress, screen, seconds or BUDGET)
    if as_json:
        typer.echo(to_json(as_data(advice), indent=2))
    else:
        _print(advice)
    if advice.chosen is None:
        raise RuntimeFailure(f"no measurement has worked: {advice.rows[0].failure}")
    if apply and advice.chosen.values:
        write_values(path, before, advice.chosen.values)
        typer.echo(f"Written into {path}.", err=as_json)
    elif apply:
        typer.echo(f"{path} stays as it is.", err=as_json)


class MeasuringScreen:
    """One bar for the time that the measurements may take. It is drawn when `wait` is called, never by a thread: the
    measurements are forked."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(stderr=True, highlight=False)
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}")
        self._bar = Progress(
            *columns,
            console=self._console,
            transient=True,
            auto_refresh=False,
            disable=not self._console.is_terminal,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=None, left="")
        self._began, self._all = time.monotonic(), 0.0

    def progress(self, label: str) -> Callable[[int, int], None]:
        def show(done: int, total: int) -> None:
            self._bar.update(self._task, description=label, completed=done, total=total, refresh=True)

        return show

    def measuring(self, what: str, left: float) -> None:
        if not self._all:
            self._began, self._all = time.monotonic(), left
        self._bar.update(self._task, description=f"measuring: {what}", total=self._all)
        if not self._console.is_terminal:
            self._console.print(f"measuring: {what}", markup=False, soft_wrap=True)
        self.wait()

    def wait(self) -> None:
        spent = time.monotonic() - self._began
        self._bar.update(self._task, completed=spent, left=f"at most {max(self._all - spent, 0):.0f} s", refresh=True)

    def close(self) -> None:
        self._bar.stop()


def _print(advice: Advice) -> None:
    from fedlens.cli.compare import show_notes, show_table

    show_table(HEAD, [_cells(row) for row in advice.rows])
    show_notes(list(_notes(advice)))
    typer.echo("")
    for line in _proposal(advice):
        typer.echo(line)


def _cells(row: Row) -> list[str]:
    from fedlens.measuring.advice import AS_IT_IS
    from fedlens.measuring.choices import shown
    from fedlens.tracking.summary import duration

    name = (shown(row.values) or AS_IT_IS) + MARKED * (row.effect == "other")
    memory = _gigabytes(row.gpu) if row.gpu else _gigabytes(row.memory)
    expected = row.expected
    if expected is None:
        return [name, "–", "–", "–", memory, "–"]
    evaluation = "–" if expected.evaluation is None else duration(expected.evaluation)
    seconds = [f"{1000 * expected.step:.0f} ms", duration(expected.training), evaluation]
    return [name, *seconds, memory, duration(expected.whole)]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _notes(advice: Advice) -> Iterator[str]:
    """What the table does not say by itself."""
    from fedlens.measuring.advice import AS_IT_IS
    from fedlens.measuring.choices import shown
    from fedlens.tracking.summary import duration

    of = "of the GPU" if advice.rows[0].gpu else f"of all processes; {_gigabytes(advice.free)} were free"
    yield f"a step: of training, all workers together; a round: without evaluation; memory: {of}"
    if any(row.effect == "other" for row in advice.rows):
        yield f"{MARKED.strip()} changes the results, so it is not proposed; the others change last digits at most"
    first = advice.rows[0].expected
    if first and first.features:
        yield f"computing the features of the frozen layers takes about {duration(first.features)}, once"
    if first and first.left_out:
        yield f"not in the time of the whole run, because not seen: {', '.join(first.left_out)}"
    if advice.busy > BUSY:
        yield (
            f"other programs used {advice.busy:.0%} of the cores before: measured times are longer than on a quiet "
            "machine, and vary"
        )
    for row in advice.rows:
        if row.failure:
            yield f"{shown(row.values) or AS_IT_IS}: {row.failure}"
    if advice.skipped:
        yield f"no time was left to measure {'; '.join(map(shown, advice.skipped))}: --seconds gives more"
    for reason in advice.lacking:
        yield f"not to be had here: {reason}"
    side = min(advice.sides)
    if side >= SMALLEST_HALVED:
        yield (
            f"not measured: data.image_size={side // 2} has a quarter of the pixels, so about a quarter of the "
            "time and of the memory for activations; it changes the results"
        )


def _proposal(advice: Advice) -> Iterator[str]:
    """The lines to use, and what they gain."""
    from fedlens.core.yaml_text import write_text
    from fedlens.measuring.choices import shown
    from fedlens.tracking.summary import duration

    chosen, first = advice.chosen, advice.rows[0]
    if chosen is None or chosen.expected is None:
        return
    if chosen.values:
        yield "Use these lines:"
        yield ""
        yield write_text(nested(chosen.values))
        whole = duration(chosen.expected.whole)
        instead = f"in place of {duration(first.expected.whole)}" if first.expected else "and did not work without"
        yield f"The whole run takes about {whole} with them, {instead}."
    else:
        yield (
            "Nothing that leaves the results as they are is clearly faster. The whole run takes about "
            f"{duration(chosen.expected.whole)}."
        )
    for row in advice.others:
        assert row.expected is not None
        yield f"With other results: {shown(row.values)} takes about {duration(row.expected.whole)}."


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key as sections."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    return tree


def as_data(advice: Advice) -> dict[str, Any]:
    """The findings for `--json`; seconds and bytes."""

    def of(row: Row) -> dict[str, Any]:
        expected = row.expected
        seen = {} if expected is None else {
            "step": expected.step,
            "round": expected.training,
            "evaluation": expected.evaluation,
            "run": expected.whole,
        }  # fmt: skip
        return {
            "settings": dict(row.values),
            "effect": row.effect,
            "memory": row.memory,
            "gpu_memory": row.gpu,
            "seconds": seen,
            "failure": row.failure,
        }

    return {
        "measured": [of(row) for row in advice.rows],
        "use": dict(advice.chosen.values) if advice.chosen else None,
        "free_memory": advice.free,
        "no_time_for": [dict(values) for values in advice.skipped],
        "not_here": list(advice.lacking),
    }
