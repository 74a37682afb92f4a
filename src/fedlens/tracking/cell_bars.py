"""rich's progress bars in one output of a notebook's cell, which is updated in place.

rich itself updates an output of ipywidgets, which has to be installed in the kernel and in the notebook's page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import Progress

if TYPE_CHECKING:
    from IPython.display import DisplayHandle


class CellProgress(Progress):
    """The output appears with the first bar. Without bars it is empty: an output cannot be removed."""

    _output: DisplayHandle | None = None

    def start(self) -> None:
        """Nothing to start: `refresh` draws."""

    def stop(self) -> None:
        """Nothing to stop."""

    def refresh(self) -> None:
        from IPython.display import display

        if self._output is not None:
            self._output.update(self)
        elif self.tasks:
            self._output = display(self, display_id=True)
