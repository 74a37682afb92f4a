"""Pictures that are most like a text, a picture, or both, by the features of a dual encoder.

A search by a text among pictures that are known imports no PyTorch, which would take longer than the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedlens.core.files import open_regular
from fedlens.data.cache_dir import default_cache_dir
from fedlens.data.found import Unreadable
from fedlens.data.images import DECODING, MAX_PIXELS, Pixels, at_most, read
from fedlens.errors import ModelError
from fedlens.inference.feature_files import FeatureFile, Features, file_name
from fedlens.inference.inputs import checked_text, saved_model
from fedlens.models.description import DESCRIPTION, WEIGHTS, read_description
from fedlens.models.numpy_layers import normalized
from fedlens.models.text_by_numpy import TextFeatures, read_text_tower
from fedlens.tracking.run_dir import newest

if TYPE_CHECKING:
    from fedlens.inference.encoder import Encoder

_FORM = 2
"""Version of the stored features, part of every key."""

Progress = Callable[[int, int], None]
"""(pictures done, pictures in all)."""

Counted = Callable[[], AbstractContextManager[Progress]]
"""Begins to show how many pictures are encoded; it is called if there are any to encode."""


@dataclass(frozen=True)
class Match:
    """A picture, and how like the query it is: the cosine of their features, −1 to 1."""

    image: Path
    similarity: float


@dataclass(frozen=True)
class Encoded:
    """images: those that can be read; features: (N, width), a row each; remark: what the user should know, or ""."""

    images: tuple[Path, ...]
    features: Features
    unreadable: tuple[Unreadable, ...]
    remark: str

    def most_like(self, query: Features, top: int) -> list[Match]:
        """The best `top`, best first; equal ones in their order. query: (width,), of length 1."""
        similarities = self.features @ query
        best = (-similarities).argsort(kind="stable")[:top]
        return [Match(self.images[row], float(similarities[row])) for row in best.tolist()]


class Searcher:
    """Searches with a dual encoder."""

    def __init__(
        self, model: str, client: str | None = None, *, max_pixels: int = MAX_PIXELS, cache_dir: Path | None = None
    ) -> None:
        """model, client: as of `open_predictor`. Features of pictures are kept below `cache_dir` (None:
        `default_cache_dir`).

        Raises:
            FedLensError: as `open_predictor`.
            ModelError: the model is no dual encoder.
        """
        found = newest(Path(model))
        self._model, self._client = model if found == Path(model) else str(found), client
        self._saved = saved_model(found) if client is None else None
        self._max_pixels = max_pixels
        self._cache_dir = cache_dir or default_cache_dir()
        self._digest = None if self._saved is None else _digest(self._saved)
        self._tower = None if self._saved is None else _text_tower(self._saved)
        if self._tower is None:
            _ = self._encoder  # what is wrong with the model is told now

    @property
    def remark(self) -> str:
        """What the user should know of the model, or ""."""
        return "" if self._tower is not None else self._encoder.remark

    def query(self, text: str | None, image: Path | None) -> Features:
        """(width,), of length 1: the features of the text, of the picture, or of both: the direction of their sum, as
        of a row that has both.

        Raises:
            ModelError: as `checked_text`; or what the model gives are no finite numbers.
            DataError: the picture cannot be read.
        """
        parts = [] if text is None else [(self._tower or self._encoder).features_of(checked_text(text))]
        if image is not None:
            parts.append(self._encoder.of_image(image))
        found = normalized(sum(parts[1:], start=parts[0]))
        if not np.isfinite(found).all():
            raise ModelError(f"{self._model}: this model gives no finite numbers: its training has diverged")
        return found

    def encode(self, images: Sequence[Path], counted: Counted) -> Encoded:
        """The features of `images`. Only those of new and changed files are computed; what has been computed when the
        user interrupts it is stored, too."""
        stored = FeatureFile(self._file(), (self._tower or self._encoder).width)
        names = [file_name(image) for image in images]
        rows = [stored.find(name) for name in names]
        missing = [place for place, row in enumerate(rows) if row is None]
        unreadable = []
        try:
            for place, found in zip(
                missing, self._computed([images[place] for place in missing], counted), strict=True
            ):
                if isinstance(found, Unreadable):
                    unreadable.append(found)
                else:
                    rows[place] = stored.add(names[place], found)
        finally:
            stored.write()
        kept = [(image, row) for image, row in zip(images, rows, strict=True) if row is not None]
        features = stored.at([row for _, row in kept])
        return Encoded(tuple(image for image, _ in kept), features, tuple(unreadable), stored.problem)

    def view(self, path: Path, side: int) -> Pixels:
        """The part of a picture that the model sees, as `Predictor.view`.

        Raises:
            DataError: the image cannot be read.
        """
        return read(path, size=at_most(side, path), channels=3, max_pixels=self._max_pixels)

    @cached_property
    def _encoder(self) -> Encoder:
        from fedlens.inference.encoder import open_encoder

        found = open_encoder(self._model, self._client, self._max_pixels)
        if self._saved is not None and self._digest != _digest(self._saved):
            raise ModelError(f"{self._model}: this model has been replaced meanwhile; search again")
        return found

    def _computed(self, images: Sequence[Path], counted: Counted) -> Iterator[Features | Unreadable]:
        if not images:
            return
        with counted() as progress:
            for done, found in enumerate(self._encoder.of_images(images), start=1):
                yield found
                progress(done, len(images))

    def _file(self) -> Path:
        """Another one for every model and version of FedLens, which decide how pictures become its inputs."""
        how = repr((_FORM, DECODING, self._max_pixels, version("fedlens"), self._digest))
        key = self._encoder.key(how) if self._digest is None else sha256(how.encode()).hexdigest()[:32]
        return self._cache_dir / "search" / f"search-{key}.safetensors"


def _text_tower(saved: Path) -> TextFeatures | None:
    """None: only PyTorch can tell the features of a text, or what is wrong with the model. Raises ModelError: as
    `read_text_tower`."""
    try:
        description = read_description(saved)
    except ModelError:
        return None
    known = description.builder == "dual_encoder" and not description.partly_private
    return read_text_tower(saved / WEIGHTS) if known else None


def _digest(saved: Path) -> str | None:
    """That of the files of a model; None: they cannot be read, which is told where the model is opened."""
    digest = sha256()
    for name in (DESCRIPTION, WEIGHTS):
        try:
            with open_regular(saved / name) as file:
                for some in iter(partial(file.read, 2**20), b""):
                    digest.update(some)
        except OSError:
            return None
    return digest.hexdigest()
