"""TensorBoard events in the run's folder: `tensorboard --logdir ./logs` shows every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlens.tracking.hyper_parameters import Value

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_PLACES = {
    **{"test": 1, "validation": 2, "train": 3, "communication": 5, "seconds": 6},
    **{"predictions": 7, "confusion": 7, "data": 7, "final": 7},
    **{"clients": 8, "client_accuracy": 9, "client_loss": 9},
}
_MEASURED = 4
"""Position of the groups that are not listed above: measurements of a round's clients."""


def placed(tag: str) -> str:
    """`tag` in the form for TensorBoard: test/loss → 1_test/loss. TensorBoard sorts groups by name, and the most
    important should come first: test first, clients last."""
    return f"{_PLACES.get(tag.partition('/')[0], _MEASURED)}_{tag}"


class TensorBoardWriter:
    """Writer of events. Nothing is imported or opened before the first write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._purge_step: int | None = None
        self._opened: SummaryWriter | None = None

    def open(self, earlier: Sequence[Mapping[str, Any]]) -> None:
        """In a resumed run TensorBoard hides what an earlier process wrote for later rounds."""
        self._purge_step = earlier[-1]["round"] + 1 if earlier else None

    def scalars(self, number: int, values: Mapping[str, float]) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(placed(tag), value, number)
        self._writer.flush()

    def picture(self, tag: str, image: NDArray[np.uint8], number: int) -> None:
        self._writer.add_image(placed(tag), image, number, dataformats="HWC")

    def finish(self, parameters: Mapping[str, Value], final: Mapping[str, float]) -> None:
        """Write the hyper-parameters, and the final metrics as `7_final/<name>`, for TensorBoard's HParams page."""
        from torch.utils.tensorboard import summary

        metrics = {placed(f"final/{name}"): value for name, value in final.items()}
        # SummaryWriter.add_hparams would create a separate run in a sub-folder
        events: Any = self._writer.file_writer
        for event in summary.hparams(dict(parameters), metrics):
            events.add_summary(event)
        for tag, value in metrics.items():
            self._writer.add_scalar(tag, value)
        self._writer.flush()

    def report(self, path: Path) -> None:
        """TensorBoard has no place for a page; the report lies beside the events."""

    def close(self, ended: bool) -> None:
        if self._opened is not None:
            self._opened.close()

    @property
    def _writer(self) -> SummaryWriter:
        if self._opened is None:
            from torch.utils.tensorboard import SummaryWriter

            self._opened = SummaryWriter(str(self._folder), purge_step=self._purge_step)
        return self._opened
