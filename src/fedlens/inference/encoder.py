"""A dual encoder that gives the features of texts and of pictures, by PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedlens.data.found import Unreadable
from fedlens.inference.feature_files import Features
from fedlens.inference.predict import Predictor, open_predictor
from fedlens.models.dual_encoder import DualEncoder, as_dual_encoder
from fedlens.training.features import network_key


@dataclass(frozen=True)
class Encoder:
    """model: the dual encoder; pictures: gives features in place of logits."""

    model: DualEncoder
    pictures: Predictor
    max_pixels: int

    @property
    def width(self) -> int:
        """Of the features."""
        return self.model.backbone.width

    @property
    def remark(self) -> str:
        """What the user should know of the model, or ""."""
        return self.pictures.remark

    def features_of(self, text: str) -> Features:
        """(width,), of length 1. text: as `checked_text` gives it."""
        features: Features = self.model.features_of(text).numpy()
        return features

    def of_image(self, image: Path) -> Features:
        """(width,), of length 1.

        Raises:
            DataError: the picture cannot be read.
        """
        features: Features = self.pictures.answer(image, self.max_pixels).logits.numpy()
        return features

    def of_images(self, images: Sequence[Path]) -> Iterator[Features | Unreadable]:
        """One for each of `images`, in order."""
        for answer in self.pictures.answers(images, max_pixels=self.max_pixels):
            yield answer if isinstance(answer, Unreadable) else answer.logits.numpy()

    def key(self, how: str) -> str:
        """32 hex digits: a digest of what the features of pictures depend on, and of `how`."""
        seen, network = self.pictures, self.model.backbone.of_images
        made = (how, seen.size, seen.channels, self.model.preprocessing, str(network))
        return network_key(repr(made), network)


def open_encoder(model: str, client: str | None, max_pixels: int) -> Encoder:
    """That of a run folder or a saved model. model, client: as of `open_predictor`.

    Raises:
        FedLensError: as `open_predictor`.
        ModelError: the model is no dual encoder.
    """
    predictor = open_predictor(model, client)
    encoder = as_dual_encoder(predictor.trained, "search")
    return Encoder(encoder, replace(predictor, model=encoder.encoder()), max_pixels)
