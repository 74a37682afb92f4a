"""Which settings to take on this machine: a few short runs, in a limited time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

import psutil

from fedlens.build.builders import Progress, build_data, build_plan
from fedlens.build.load import load
from fedlens.config.schema import Config
from fedlens.data.types import FederatedData
from fedlens.errors import ConfigError
from fedlens.measuring.choices import Choice, Effect, Facts, as_overrides, choices, lacking, shown, workers_of
from fedlens.measuring.expectation import Expectation, Work, expect
from fedlens.measuring.measurement import measure
from fedlens.session.run import UserObjects
from fedlens.training.device import one_thread

BUDGET = 90.0
"""Seconds of all measurements together."""

LONGEST = 8.0
"""Seconds that one measurement watches, once it has begun."""

FIRST = 0.3
"""Part of the time for the configuration as it is, of which evaluations are to be seen, too."""

SHOWS_ALL = 3
"""Rounds that show each kind of evaluation, after a first one, which takes longer."""

FEWEST = 4.0
"""Seconds below which no measurement is begun: a run takes about so long to start."""

REPEATED = 2
"""Measurements that are made again at the end, of what is compared: another program may have disturbed one."""

LOOK_AROUND = 0.5
"""Seconds that other programs are watched before."""

CLEAR = 0.9
"""Measured seconds vary by some percent: only what takes less than this part of the time counts as faster."""

AS_IT_IS = "as it is"
"""The name of the configuration without changes."""

ROOM = 0.9
"""Part of the memory that is free before, which a run may take."""


@dataclass(frozen=True)
class Row:
    """One measurement. values: what differs from the configuration; memory, gpu: bytes; expected: None where it failed,
    `failure` says why."""

    values: Mapping[str, Any]
    effect: Effect
    memory: int
    gpu: int
    expected: Expectation | None
    failure: str | None

    def faster_than(self, other: Row) -> bool:
        """Whether a round takes clearly less time."""
        if self.expected is None or other.expected is None:
            return self.expected is not None
        return self.expected.training < CLEAR * other.expected.training

    def again(self, row: Row) -> Row:
        """This measurement and another one of the same settings."""
        if self.expected is None or row.expected is None:
            return row if self.expected is None else self
        memory, gpu = max(self.memory, row.memory), max(self.gpu, row.gpu)
        return replace(self, memory=memory, gpu=gpu, expected=self.expected.faster(row.expected))


class Screen(Protocol):
    """What is told of the measurements."""

    def measuring(self, what: str, left: float) -> None:
        """A measurement begins; at most `left` seconds are left for all."""
        ...

    def wait(self) -> None:
        """Time goes by."""
        ...


@dataclass(frozen=True)
class Advice:
    """What was found. rows: measurements, that of the configuration first; chosen: the row to take, the first where
    nothing is clearly better, None where nothing has worked; free: bytes that were free before; skipped: what there was
    no time for; lacking: what cannot be had here; sides: of the images, in pixels;
    busy: part of the cores that other programs used before."""

    rows: Sequence[Row]
    chosen: Row | None
    free: int
    skipped: Sequence[Mapping[str, Any]]
    lacking: Sequence[str]
    sides: tuple[int, int]
    busy: float

    @property
    def others(self) -> list[Row]:
        """What would change the numbers of a run, and is clearly faster than the chosen settings."""
        chosen = self.chosen
        return [row for row in self.rows if row.effect == "other" and fits(row, self.free)
                and (chosen is None or row.faster_than(chosen))]  # fmt: skip


def fits(row: Row, free: int) -> bool:
    """Whether a run of these settings has worked, and leaves the machine some memory."""
    return row.expected is not None and row.memory <= ROOM * free


def advise(path: Path, overrides: Sequence[str], progress: Progress, screen: Screen, seconds: float = BUDGET) -> Advice:
    """Measure a configuration, and what may be changed of it, for so many seconds. Decoding the images comes before
    that: they are kept for the run.

    Raises:
        FedLensError: the configuration cannot be run as it is.
    """
    config = load(path, overrides, use="run")
    with one_thread():  # measurements are forked: a process that has computed with several threads cannot be
        data = build_data(config, progress)
        facts = Facts.of(config, data, build_plan(config).sampler.most(len(data.clients)))
    return Adviser(path, overrides, data, facts, screen, time.monotonic() + seconds).advise(config)


@dataclass
class Adviser:
    """Measures one choice after the other, each on top of the best ones before. ends: when, on `time.monotonic`."""

    path: Path
    overrides: Sequence[str]
    data: FederatedData
    facts: Facts
    screen: Screen
    ends: float
    busy: float = field(default_factory=lambda: psutil.cpu_percent(LOOK_AROUND) / 100)
    free: int = field(default_factory=lambda: int(psutil.virtual_memory().available))
    rows: list[Row] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)

    def advise(self, config: Config) -> Advice:
        """Measure `config`, the choices for it, and once more what is proposed."""
        self.lacks.extend(lacking(config, self.facts))
        wanted, skipped = list(choices(config, self.facts)), []
        first = best = self._measured(config, Choice({}, "same"), FIRST * self._left, SHOWS_ALL)
        self.rows.append(first)
        for number, one in enumerate(wanted):
            choice = replace(one, values={**best.values, **one.values})
            if self._left < self._least:
                skipped.append(choice.values)
            elif changed := self._load(choice):
                share = max(self._left / (len(wanted) - number + REPEATED), self._least)
                row = self._measured(changed, choice, share)
                self.rows.append(row)
                best = row if self._better(row, best) else best
        if best is not first and first.expected is not None:
            first, best = (self._again(row) for row in (first, best))
            best = best if self._better(best, first) else first
        seen = reduce(_both, [row.expected for row in self.rows])
        rows = [replace(row, expected=row.expected and row.expected.beside(seen)) for row in self.rows]
        chosen = rows[self.rows.index(best)] if best.expected else None
        return Advice(rows, chosen, self.free, skipped, self.lacks, self.data.sides, self.busy)

    @property
    def _left(self) -> float:
        return self.ends - time.monotonic()

    @property
    def _least(self) -> float:
        """Seconds below which a measurement shows nothing: each worker has to do two steps."""
        expected = self.rows[0].expected
        return FEWEST + (2 * expected.step * expected.work.workers if expected else 0)

    def _load(self, choice: Choice) -> Config | None:
        """The configuration with a choice's values; None where they do not go with it, which is noted."""
        try:
            return load(self.path, [*self.overrides, *as_overrides(choice.values)], use="run")
        except ConfigError as error:
            self.lacks.append(error.problems[0].line)
            return None

    def _measured(self, config: Config, choice: Choice, share: float, rounds: int = 0) -> Row:
        """Measure for a `share` of the time; up to twice as long where so little is not enough for two steps."""
        self.screen.measuring(shown(choice.values) or AS_IT_IS, self._left)
        most = min(time.monotonic() + 2 * max(share, FEWEST), self.ends)
        workers = workers_of(config, self.facts.cohort, self.facts.gpu)
        found = measure(
            config,
            seconds=min(share / 2, LONGEST),
            ends=most,
            rounds=rounds,
            workers=workers,
            given=UserObjects(data=self.data),
            look=self.screen.wait,
        )
        expected = None if found.failure else expect(found, Work.of(config, self.data, workers))
        failure = found.failure or (None if expected else "too slow: no two steps in the time there was")
        return Row(choice.values, choice.effect, found.memory, found.gpu, expected, failure)

    def _again(self, row: Row) -> Row:
        """Measure a row once more, if there is the time."""
        choice = Choice(row.values, row.effect)
        config = self._load(choice)
        if config is None or self._left < self._least:
            return row
        better = row.again(self._measured(config, choice, self._left / REPEATED))
        self.rows[self.rows.index(row)] = better
        return better

    def _better(self, row: Row, best: Row) -> bool:
        """Whether to take `row` in place of `best`, without asking whether other numbers are wanted."""
        if row.effect == "other" or row.expected is None:
            return False
        if not fits(best, self.free):
            return best.expected is None or row.memory < best.memory
        return fits(row, self.free) and row.faster_than(best)


def _both(one: Expectation | None, other: Expectation | None) -> Expectation | None:
    """One that has seen what either has."""
    return one.beside(other) if one else other
