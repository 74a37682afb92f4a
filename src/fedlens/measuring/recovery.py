"""A run that fills the memory: which settings would have fitted, and with `memory.auto` the rest of it with them."""

from __future__ import annotations

import gc
import signal
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fedlens.build.builders import Progress
from fedlens.config.load import dump
from fedlens.config.schema import Config
from fedlens.core.records import RoundRecord, Tracker
from fedlens.core.types import State
from fedlens.errors import FedLensError, OutOfMemory
from fedlens.measuring.choices import Choice, Effect, as_overrides, shown
from fedlens.measuring.fitting import BUDGET, Fitting, find_fit
from fedlens.session.run import UserObjects
from fedlens.session.run import execute as execute_once
from fedlens.tracking.next_steps import resuming
from fedlens.tracking.observer import Observer
from fedlens.tracking.run_dir import RunDir
from fedlens.training.device import enough_memory

NEW_RUN = "a new run needs a smaller data.image_size, federated.batch_size or model"

CHANGES: dict[Effect, str] = {
    "same": "the numbers stay the same",
    "rounding": "numbers change in their last digits",
    "other": "numbers are others from there on",
}
"""What settings do to a run that goes on with them."""


def execute(
    config: Config, folder: RunDir, given: UserObjects, observer: Observer, trackers: Sequence[Tracker]
) -> nn.Module:
    """As `session.run.execute`. Where memory is full, it measures which settings fit; with `memory.auto` the run goes
    on with them, as often as that is needed.

    Raises:
        FedLensError: as there; `OutOfMemory` names the settings.
        KeyboardInterrupt: passed on, but from a measurement: Ctrl-C skips that.
    """
    first = _values(given.model) if config.memory.auto and given.model is not None else {}
    lasting = [Lasting(tracker) for tracker in trackers]
    try:
        while True:
            try:
                return execute_once(config, folder, given, observer, lasting)
            except OutOfMemory as error:
                full = error.with_traceback(None)
            # Here and not above: while an error is handled, its frames hold what has filled the memory.
            config = _with_less(full, config, folder, given, observer)
            if given.model is not None:
                given.model.load_state_dict(first)
    finally:
        for tracker in trackers:
            tracker.close()


@dataclass(frozen=True)
class Lasting:
    """A tracker that is not closed while the run may go on."""

    tracker: Tracker

    def round(self, record: RoundRecord) -> None:
        self.tracker.round(record)

    def close(self) -> None: ...


def _with_less(full: OutOfMemory, config: Config, folder: RunDir, given: UserObjects, observer: Observer) -> Config:
    """The configuration to go on with.

    Raises:
        OutOfMemory: there is none, or the user has to decide.
    """
    _free()
    skips = "" if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else " (Ctrl-C skips it)"
    observer.note(f"{full.fact}; measuring which settings fit, for at most {BUDGET:g} s{skips}")
    try:
        found = _found(config, given, observer.progress)
    finally:
        observer.close()
    if found.fits is None:
        raise OutOfMemory(full.fact, _nothing(found, full)) from full
    choice = found.fits.choice
    if not config.memory.auto:
        raise OutOfMemory(full.fact, _proposal(choice, found.memory, folder)) from full
    if not folder.config.exists():  # it filled the memory before its first round
        folder.save_config(dump(config))
    observer.note(
        f"going on after round {folder.rounds_done} with {shown(choice.values)}, which fits ({_gb(found.memory)}, "
        f"measured); {CHANGES[choice.effect]}; {folder.config} keeps it"
    )
    return found.fits.config


def _found(config: Config, given: UserObjects, progress: Progress) -> Fitting:
    """What measurements say; where there can be none, why."""
    if config.runtime.name == "ray":
        return Fitting(reason="Ray's nodes are not measured")
    try:
        with enough_memory():
            return find_fit(config, given, progress, BUDGET)
    except FedLensError as error:
        return Fitting(reason=error.fact if isinstance(error, OutOfMemory) else str(error))
    except KeyboardInterrupt as stop:
        if type(stop) is not KeyboardInterrupt:  # a signal that ends the command
            raise
        return Fitting(reason="skipped")


def _nothing(found: Fitting, full: OutOfMemory) -> str:
    if found.smallest is None:
        return f"{full.way_out} (what fits was not measured: {found.reason})"
    return f"not even {shown(found.smallest.values)} fits here, as measured; {NEW_RUN}"


def _proposal(choice: Choice, memory: int, folder: RunDir) -> str:
    """The settings, and the command to go on."""
    measured = f"{shown(choice.values)} fits here, measured with {_gb(memory)}; {CHANGES[choice.effect]}"
    if not folder.config.exists():
        return f"{measured}. Begin again with them"
    return f"{measured}. Go on with: {resuming(str(folder.path), 'fedlens resume', *as_overrides(choice.values))}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _values(model: nn.Module) -> State:
    """A copy of a module's tensors, in main memory."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _free() -> None:
    """Give back what the failed run has held."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
