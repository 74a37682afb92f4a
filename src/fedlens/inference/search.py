"""Pictures that are most like a text, a picture, or both, by the features of a dual encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from fedlens.data.cache import DECODING, default_cache_dir
from fedlens.data.images import MAX_PIXELS
from fedlens.inference.feature_files import FeatureFile, file_name
from fedlens.inference.predict import Answer, Predictor, Unreadable, checked_text
from fedlens.models.dual_encoder import as_dual_encoder
from fedlens.training.features import Progress, network_key

_FORM = 1
"""Version of the stored features, part of every key."""

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
    features: Tensor
    unreadable: tuple[Unreadable, ...]
    remark: str

    def most_like(self, query: Tensor, top: int) -> list[Match]:
        """The best `top`, best first; equal ones in their order. query: (width,), of length 1."""
        similarities = self.features @ query
        best = similarities.argsort(descending=True, stable=True)[:top]
        return [Match(self.images[row], float(similarities[row])) for row in best.tolist()]


class Searcher:
    """Searches with the model of a predictor."""

    def __init__(self, predictor: Predictor, *, max_pixels: int = MAX_PIXELS, cache_dir: Path | None = None) -> None:
        """Features of pictures are kept below `cache_dir` (None: `default_cache_dir`).

        Raises:
            ModelError: the model is no dual encoder.
        """
        self._model = as_dual_encoder(predictor.trained, "search")
        self._encoder = replace(predictor, model=self._model.encoder())
        self._max_pixels = max_pixels
        self._cache_dir = cache_dir or default_cache_dir()

    def query(self, text: str | None, image: Path | None) -> Tensor:
        """(width,), of length 1: the features of the text, of the picture, or of both: the direction of their sum, as
        of a row that has both.

        Raises:
            ModelError: as `checked_text`.
            DataError: the picture cannot be read.
        """
        parts = [] if text is None else [self._model.features_of(checked_text(text))]
        if image is not None:
            parts.append(self._encoder.answer(image, self._max_pixels).logits)
        return functional.normalize(torch.stack(parts).sum(0), dim=0)

    def encode(self, images: Sequence[Path], counted: Counted) -> Encoded:
        """The features of `images`. Only those of new and changed files are computed; what has been computed when the
        user interrupts it is stored, too."""
        stored = FeatureFile(self._file(), self._model.backbone.width)
        names = [file_name(image) for image in images]
        rows = [stored.find(name) for name in names]
        missing = [place for place, row in enumerate(rows) if row is None]
        unreadable = []
        try:
            for place, answer in zip(
                missing, self._answers([images[place] for place in missing], counted), strict=True
            ):
                if isinstance(answer, Unreadable):
                    unreadable.append(answer)
                else:
                    rows[place] = stored.add(names[place], answer.logits)
        finally:
            stored.write()
        found = [(image, row) for image, row in zip(images, rows, strict=True) if row is not None]
        features = stored.at([row for _, row in found])
        return Encoded(tuple(image for image, _ in found), features, tuple(unreadable), stored.problem)

    def _answers(self, images: Sequence[Path], counted: Counted) -> Iterator[Answer | Unreadable]:
        """Whose `logits` are features."""
        if not images:
            return
        with counted() as progress:
            for done, answer in enumerate(self._encoder.answers(images, max_pixels=self._max_pixels), start=1):
                yield answer
                progress(done, len(images))

    def _file(self) -> Path:
        """Another one for every image tower, and for every way to make its inputs."""
        seen, network = self._encoder, self._model.backbone.of_images
        how = (_FORM, DECODING, seen.size, seen.channels, self._max_pixels, self._model.preprocessing, str(network))
        return self._cache_dir / "search" / f"search-{network_key(repr(how), network)}.safetensors"
