"""Predictions for an image file: the most probable classes, by a trained run or a network with ImageNet weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from fedlens.data.images import MAX_PIXELS, Pixels, decode, read, to_channels
from fedlens.errors import ModelError
from fedlens.inference.personal import clients_of, open_personal, some
from fedlens.models.artefact import DESCRIPTION, load_model
from fedlens.models.base import ModelRequest, Recognizer, models
from fedlens.models.build import build_model, builder_named
from fedlens.models.imagenet import CLASSES, ImageNetBuilder
from fedlens.tracking.run_dir import RunDir, find_runs, newest

MODEL_FOLDER = "model"
"""Where a run folder keeps its final model."""

_MOST_RUNS = 5


@dataclass(frozen=True)
class Guess:
    """One class with the probability that the model gives it."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first."""

    image: Path
    guesses: tuple[Guess, ...]


class Loader(Protocol):
    """Image file → uint8 (S, S, C), as the model's own images were made."""

    def __call__(self, path: Path, *, max_pixels: int) -> Pixels: ...


@dataclass(frozen=True)
class Predictor:
    """A model with the names of its classes, and the way that it wants its images; `remark` is for its user."""

    model: Recognizer
    class_names: tuple[str, ...]
    load: Loader
    remark: str = ""

    def predict(self, image: Path, top: int = 5, max_pixels: int = MAX_PIXELS) -> Prediction:
        """The `top` classes of an image file.

        Raises:
            DataError: the image cannot be read; the message names it.
        """
        pixels = torch.tensor(self.load(image, max_pixels=max_pixels))[None]
        with torch.inference_mode():
            probabilities = self.model(self.model.prepare(pixels)).softmax(dim=1)[0]
        best = probabilities.topk(min(top, len(probabilities)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Prediction(image, tuple(Guess(self.name(index), value) for index, value in pairs))

    def name(self, index: int) -> str:
        """A model may have more outputs than the data had classes: those have no name."""
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"


def open_predictor(what: str, client: str | None = None) -> Predictor:
    """A predictor from a run folder (`logs/<run>`; `latest`: the newest), a saved model's folder, or a model's name
    (ImageNet weights).

    client  the one whose own model it is; of a run folder only

    Raises:
        ModelError: the folder holds no model, or runs; weights cannot be had; a model without ImageNet weights; no
            such client, or none where parts of the model stay with the clients.
        ConfigError: neither a folder nor a known name.
    """
    folder = newest(Path(what))
    if client is not None:
        return _personal(RunDir.open(folder), client)
    if folder.is_dir():
        return _trained(folder if (folder / DESCRIPTION).exists() else _model_of_run(folder))
    if "/" in what or "\\" in what:
        raise ModelError(f"{what}: there is no such run folder; give one, or a model's name (`fedlens models`)")
    return _imagenet(what)


def _model_of_run(folder: Path) -> Path:
    runs = [run.path for run in reversed(find_runs(folder)) if run.path != folder]
    if runs:
        more = f" and {len(runs) - _MOST_RUNS} more" if len(runs) > _MOST_RUNS else ""
        named = ", ".join(map(str, runs[:_MOST_RUNS]))
        raise ModelError(f"{folder} holds runs; name one of them, newest first: {named}{more}")
    return folder / MODEL_FOLDER


def _trained(folder: Path) -> Predictor:
    model, description = load_model(folder)
    if description.partly_private:
        names = some(clients_of(RunDir(folder.parent)))
        raise ModelError(f"{folder}: parts of this model stay with the clients; choose one with --client: {names}")
    return Predictor(model, description.class_names, _loader(description.image_size, description.image_channels))


def _personal(run: RunDir, client: str) -> Predictor:
    found = open_personal(run, client)
    if not isinstance(found.model, Recognizer):
        raise ModelError(f"{run.path} trained a module of your own: use fedlens.load_run(…).model_of(client, model=…)")
    images = found.images
    return Predictor(found.model, images.class_names, _loader(max(images.sides), images.channels), found.remark)


def _loader(size: int, image_channels: int) -> Loader:
    channels: Literal[1, 3] = 1 if image_channels == 1 else 3
    return partial(read, size=size, channels=channels)


def _imagenet(name: str) -> Predictor:
    builder = builder_named(name)
    if not isinstance(builder, ImageNetBuilder):
        with_weights = [entry.name for entry in models.entries() if issubclass(entry.factory, ImageNetBuilder)]
        raise ModelError(f"{name} has no ImageNet weights; these have: {', '.join(with_weights)}; or give a run folder")
    size = builder.default_image_size
    model = build_model(builder, ModelRequest(CLASSES, size, image_channels=3, pretrained=True)).eval()

    def load(path: Path, *, max_pixels: int) -> Pixels:
        return central_square(to_channels(decode(path, max_pixels=max_pixels), 3), size)

    return Predictor(model, imagenet_names(), load)


def imagenet_names() -> tuple[str, ...]:
    """The thousand ImageNet classes, in the order of the outputs; the first of a class' synonyms is kept."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.index_to_description(index).partition(",")[0] for index in range(CLASSES))


def central_square(image: Pixels, size: int) -> Pixels:
    """As ImageNet networks are evaluated: the shorter side to size · 256 / 224 (bicubic, antialiased), and of that
    the central square of `size` pixels. uint8 (H, W, 3) → (size, size, 3)."""
    shorter = round(size * 256 / 224)
    height, width = image.shape[:2]
    scale = shorter / min(height, width)
    to = (max(shorter, round(height * scale)), max(shorter, round(width * scale)))
    pixels: Tensor = torch.tensor(image).permute(2, 0, 1)[None]
    scaled = functional.interpolate(pixels, to, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    top, left = (to[0] - size) // 2, (to[1] - size) // 2
    square: Pixels = scaled[top : top + size, left : left + size].contiguous().numpy()
    return square
