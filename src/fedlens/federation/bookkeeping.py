"""Records and checkpoints, written by a thread of their own while the next round trains."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from fedlens.core.records import RoundRecord, Tracker
from fedlens.core.types import State
from fedlens.federation.checkpoints import Checkpoint, Checkpoints


class Bookkeeping:
    """Writes one round at a time, in order: trackers first, so that a checkpoint is never ahead of the records."""

    def __init__(self, trackers: Sequence[Tracker], checkpoints: Checkpoints | None) -> None:
        self._trackers = trackers
        self._checkpoints = checkpoints
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bookkeeping")
        self._pending: Future[None] | None = None

    def file(self, record: RoundRecord, checkpoint: Checkpoint, best: State | None) -> None:
        """Hand over a finished round; waits for the round before it.

        Raises:
            CheckpointError: the round before could not be written.
        """
        self.wait()
        self._pending = self._thread.submit(self._write, record, checkpoint, best)

    def wait(self) -> None:
        """Wait until everything handed over is on disk; raises the error that occurred there."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        self._thread.shutdown()

    def _write(self, record: RoundRecord, checkpoint: Checkpoint, best: State | None) -> None:
        for tracker in self._trackers:
            tracker.round(record)
        if self._checkpoints is not None:
            if best is not None:
                self._checkpoints.save_best(best)
            self._checkpoints.save(checkpoint)
