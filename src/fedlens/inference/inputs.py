"""What a user gives beside pictures: the folder of a model, and a text."""

from __future__ import annotations

from pathlib import Path

from fedlens.data.texts import LONGEST, normalized_text
from fedlens.errors import ModelError
from fedlens.models.description import DESCRIPTION
from fedlens.tracking.run_dir import RunDir


def saved_model(folder: Path) -> Path | None:
    """The folder of the model that is saved in `folder`: in itself, or, of a run, below it; None: there is none."""
    return next((place for place in (folder, RunDir(folder).model) if (place / DESCRIPTION).exists()), None)


def checked_text(text: str) -> str:
    """`text` as models are trained on it.

    Raises:
        ModelError: it is empty, or longer than any text in training may be.
    """
    if len(text) > LONGEST:
        raise ModelError(f"--text: it has {len(text):,} characters; give {LONGEST:,} at most")
    if not (cleaned := normalized_text(text)):
        raise ModelError("--text: it is empty; leave it out, or say what the image shows")
    return cleaned
