"""ELPV: 2,624 electroluminescence photographs of solar cells (Buerhop-Lutz et al., EU PVSEC 2018; Deitsch et al., Solar
Energy 185, 2019), CC BY-NC-SA 4.0. The extra `fedlens[solar]` installs them; FedLens itself does not contain them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from fedlens.data.base import Source, sources
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

CLASS_NAMES = ("functional", "defective")


@sources.register(
    "elpv", summary="real photographs of solar cells, functional or defective, from ten plants; fedlens[solar]"
)
@dataclass(frozen=True)
class ELPV(Source):
    """A cell counts as defective if its defect probability is at least `threshold` (the file has 0, 1/3, 2/3 and 1).
    With the default, 68.7 % are functional.

    The file holds ten runs of one module type, like ten plants: each is a client. It does not identify a cell's module,
    so `groups` is None and cells of one module may be on both sides of a random split.
    """

    threshold: Annotated[float, Field(description="probability from which a cell counts as defective")] = 0.5

    def load(self) -> ImageTable:
        """List the photographs, grey, 300 × 300.

        Raises:
            DataError: the package is not installed.
        """
        try:
            folder = Path(str(files("elpv_dataset"))) / "data"
        except ModuleNotFoundError as error:
            raise DataError("data.source elpv needs the photographs: pip install fedlens[solar]") from error
        with (folder / "labels.csv").open(encoding="utf-8") as file:
            rows = [line.split() for line in file]
        runs = [(kind, len(list(run))) for kind, run in groupby(kind for _, _, kind in rows)]
        plants = [f"plant-{number:02d}-{kind}" for number, (kind, _) in enumerate(runs, start=1)]
        return ImageTable(
            images=[folder / name for name, _, _ in rows],
            labels=np.array([float(probability) >= self.threshold for _, probability, _ in rows], np.int64),
            class_names=CLASS_NAMES,
            clients=np.repeat(plants, [cells for _, cells in runs]),
            channels=1,
            native_size=300,
        )
