"""Simulated textiles: 2,000 images of woven fabric, made with the R package spc4sts (Bui, Apley, Journal of Quality
Technology 53(3), 2021, https://doi.org/10.1080/00224065.2019.1707730) for a study of few-shot inspection with CLIP:
Megahed, Chen, Colosimo, Grasso, Jones-Farmer, Knoth, Sun, Zwetsloot 2025, https://arxiv.org/abs/2501.12596; MIT. The
extra `fedlens[textile]` installs them; FedLens itself does not contain them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from fedlens.data.base import Source, sources
from fedlens.data.types import ImageTable
from fedlens.errors import DataError

CLASSES = {"nominal": "no defect", "local": "local defect", "global": "global defect"}
"""Folder → name of the class."""


@sources.register(
    "textile", summary="simulated fabric without a defect, with a local or a global one; fedlens[textile]"
)
@dataclass(frozen=True)
class Textile(Source):
    """No photographs: a random process draws the weave. A local defect is a patch of noise of about 8 × 13 pixels, and
    is hidden in a smaller copy; a global one is a weave whose two parameters are 5 % smaller. 1,000 images have no
    defect, 500 a local and 500 a global one.
    """

    def load(self) -> ImageTable:
        """List the images, grey, 250 × 250.

        Raises:
            DataError: the package is not installed.
        """
        try:
            folder = Path(str(files("conformal_clip_data"))) / "data" / "textile_images" / "simulated"
        except ModuleNotFoundError as error:
            raise DataError("data.source textile needs the images: pip install fedlens[textile]") from error
        images = [sorted((folder / name).glob("*.jpg")) for name in CLASSES]
        return ImageTable(
            images=[path for paths in images for path in paths],
            labels=np.repeat(np.arange(len(CLASSES)), [len(paths) for paths in images]),
            class_names=tuple(CLASSES.values()),
            channels=1,
            native_size=250,
        )
