"""Predictions for image files: the most probable classes, by a trained run or a network with ImageNet weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from fedlens.data.found import Unreadable
from fedlens.data.images import MAX_PIXELS, Pixels, at_most, decode, read, to_channels
from fedlens.errors import DataError, ModelError
from fedlens.inference.class_lists import checked_classes
from fedlens.inference.inputs import checked_text, saved_model
from fedlens.models.artefact import load_model
from fedlens.models.base import ModelRequest, Recognizer, beside_texts, models
from fedlens.models.build import build_model, builder_named
from fedlens.models.dual_encoder import DualEncoder, as_dual_encoder
from fedlens.models.imagenet import CLASSES, ImageNetBuilder
from fedlens.tracking.run_dir import RunDir, find_runs, newest

BATCH = 64
"""Images that are in memory at once."""

_MOST_RUNS = 5

TEXT_ALONE = Path("the text alone")
"""What answers name where there is no image."""


@dataclass(frozen=True)
class Guess:
    """One class with the probability that the model gives it; display: its display name, if somebody wants them."""

    label: str
    probability: float
    display: str | None = None

    @property
    def shown(self) -> str:
        """For people: the display name, or the class' own."""
        return self.label if self.display is None else self.display


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first."""

    image: Path
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Answer:
    """What the model says of one image: pixels, uint8 (S, S, C), which it was given; logits, float32 (outputs,); view,
    for people, as that of a `Predictor`, or None if nobody asked."""

    image: Path
    pixels: Pixels
    logits: Tensor
    view: Pixels | None


Loaded = tuple[Pixels, Pixels | None] | Unreadable


class Square(Protocol):
    """Image file → the part of it that the model sees, as the model's own images were made: uint8 (size, size, C)."""

    def __call__(self, path: Path, *, size: int, channels: Literal[1, 3], max_pixels: int) -> Pixels: ...


@dataclass(frozen=True)
class Predictor:
    """A model with the names of its classes, and the way that it wants its images; `remark` is for its user.

    text  what it reads beside every image, (1, …); None: nothing
    display  class → display name (`data.display_names`); None: nobody wants them
    named_by  the dual encoder to which the classes of `model` are texts; None: they are those of its training
    """

    model: Recognizer
    class_names: tuple[str, ...]
    square: Square
    size: int
    channels: Literal[1, 3]
    remark: str = ""
    text: Tensor | None = None
    display: Mapping[str, str] | None = None
    named_by: DualEncoder | None = None

    @property
    def trained(self) -> Recognizer:
        """The model as it was trained."""
        return self.model if self.named_by is None else self.named_by

    @property
    def note(self) -> str:
        """What the user should know of the classes' names, or ""."""
        return "" if self.named_by is None else self.named_by.note_of_cut(self.class_names)

    def beside(self, text: str) -> Predictor:
        """The predictor that reads `text` beside every image.

        Raises:
            ModelError: the model takes images alone, or the text is empty.
        """
        if self.model.text_reader is None:
            raise ModelError(
                "--text: this model takes images alone; leave it out, or train one that reads texts: "
                "model.name=fusion or model.name=dual_encoder"
            )
        return replace(self, text=self.model.text_reader.read([checked_text(text)], lambda _done, _all: None))

    def recognizing(self, names: Sequence[str]) -> Predictor:
        """The predictor for other classes, which need not have been labels in training: of a dual encoder, to which the
        name of a class is a text. This one keeps its own.

        Raises:
            ModelError: the model is no dual encoder.
            ConfigError: as `checked_classes`.
        """
        model = as_dual_encoder(self.trained, "--classes")
        classes = checked_classes(names)
        return replace(self, model=model.with_classes(classes), class_names=classes, display=None, named_by=model)

    @torch.inference_mode()
    def of_text(self, top: int = 5) -> Prediction:
        """The `top` most probable classes of the text alone."""
        assert self.text is not None, "as `beside` gives it"
        nothing = torch.zeros(1, self.size, self.size, self.channels, dtype=torch.uint8)
        inputs = beside_texts(self.model.prepare(nothing), self.text, torch.tensor([[False, True]]))
        return self.prediction(Answer(TEXT_ALONE, nothing[0].numpy(), self.model(inputs)[0].float(), None), top)

    def predict(self, image: Path, top: int = 5) -> Prediction:
        """The `top` most probable classes of one image.

        Raises:
            DataError: it cannot be read; the message names it.
        """
        return self.prediction(self.answer(image), top)

    def answer(self, image: Path, max_pixels: int = MAX_PIXELS) -> Answer:
        """That for one image.

        Raises:
            DataError: it cannot be read; the message names it.
        """
        (answer,) = self.answers([image], max_pixels=max_pixels)
        if isinstance(answer, Unreadable):
            raise DataError(answer.problem)
        return answer

    def answers(
        self, images: Sequence[Path], *, side: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> Iterator[Answer | Unreadable]:
        """One for each of `images`, in order; at most `BATCH` of them are in memory. `side`: that of the views."""
        load = partial(self._load, side=side, max_pixels=max_pixels)
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(images), BATCH):
                files = images[start : start + BATCH]
                yield from self._answered(files, list(pool.map(load, files)))

    def prediction(self, answer: Answer, top: int = 5) -> Prediction:
        """The `top` most probable classes."""
        best = answer.logits.softmax(dim=0).topk(min(top, len(answer.logits)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Prediction(answer.image, tuple(self._guess(self.name(index), value) for index, value in pairs))

    def name(self, index: int) -> str:
        """A model may have more outputs than the data had classes: those have no name."""
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"

    def _guess(self, label: str, probability: float) -> Guess:
        return Guess(label, probability, None if self.display is None else self.display.get(label, label))

    def view(self, path: Path, side: int, max_pixels: int = MAX_PIXELS) -> Pixels:
        """The part of a picture that the model sees, in the picture's own colours: uint8 (side, side, 3), less where
        the picture is smaller.

        Raises:
            DataError: the image cannot be read.
        """
        return self.square(path, size=at_most(side, path), channels=3, max_pixels=max_pixels)

    def _load(self, path: Path, *, side: int | None, max_pixels: int) -> Loaded:
        try:
            pixels = self.square(path, size=self.size, channels=self.channels, max_pixels=max_pixels)
            return pixels, None if side is None else self.view(path, side, max_pixels)
        except DataError as error:
            return Unreadable(path, str(error))

    @torch.inference_mode()
    def _answered(self, files: Sequence[Path], loaded: Sequence[Loaded]) -> list[Answer | Unreadable]:
        pixels = [torch.tensor(one[0]) for one in loaded if not isinstance(one, Unreadable)]
        logits = iter(self._logits(torch.stack(pixels)) if pixels else ())
        return [
            one if isinstance(one, Unreadable) else Answer(path, one[0], next(logits), one[1])
            for path, one in zip(files, loaded, strict=True)
        ]

    def _logits(self, pixels: Tensor) -> Tensor:
        """uint8 (B, S, S, C) → (B, outputs)."""
        inputs = self.model.prepare(pixels)
        if self.text is not None:
            texts = self.text.expand(len(pixels), *self.text.shape[1:])
            inputs = beside_texts(inputs, texts, torch.ones(len(pixels), 2, dtype=torch.bool))
        logits: Tensor = self.model(inputs).float()
        return logits


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
        return _trained(saved_model(folder) or _no_model(folder))
    if "/" in what or "\\" in what:
        raise ModelError(f"{what}: there is no such run folder; give one, or a model's name (`fedlens models`)")
    return _imagenet(what)


def _no_model(folder: Path) -> Path:
    """Where the model of a run would be. Raises ModelError: it is a folder of runs."""
    runs = [run.path for run in reversed(find_runs(folder)) if run.path != folder]
    if runs:
        more = f" and {len(runs) - _MOST_RUNS} more" if len(runs) > _MOST_RUNS else ""
        named = ", ".join(map(str, runs[:_MOST_RUNS]))
        raise ModelError(f"{folder} holds runs; name one of them, newest first: {named}{more}")
    return RunDir(folder).model


def _trained(folder: Path) -> Predictor:
    model, description = load_model(folder)
    if description.partly_private:
        from fedlens.inference.personal import clients_of, some

        names = some(clients_of(RunDir(folder.parent)))
        raise ModelError(f"{folder}: parts of this model stay with the clients; choose one with --client: {names}")
    return _predictor(model, description.class_names, description.image_size, description.image_channels)


def _personal(run: RunDir, client: str) -> Predictor:
    from fedlens.inference.personal import open_personal

    found = open_personal(run, client)
    if not isinstance(found.model, Recognizer):
        raise ModelError(f"{run.path} trained a module of your own: use fedlens.load_run(…).model_of(client, model=…)")
    images = found.images
    return _predictor(found.model, images.class_names, max(images.sides), images.channels, found.remark)


def _predictor(model: Recognizer, names: tuple[str, ...], size: int, channels: int, remark: str = "") -> Predictor:
    return Predictor(model, names, read, size, 1 if channels == 1 else 3, remark)


def _imagenet(name: str) -> Predictor:
    builder = builder_named(name)
    if not isinstance(builder, ImageNetBuilder):
        with_weights = [entry.name for entry in models.entries() if issubclass(entry.factory, ImageNetBuilder)]
        raise ModelError(f"{name} has no ImageNet weights; these have: {', '.join(with_weights)}; or give a run folder")
    size = builder.default_image_size
    model = build_model(builder, ModelRequest(CLASSES, size, image_channels=3, pretrained=True)).eval()

    return Predictor(model, imagenet_names(), _central, size, channels=3)


def _central(path: Path, *, size: int, channels: Literal[1, 3], max_pixels: int) -> Pixels:
    return central_square(to_channels(decode(path, max_pixels=max_pixels), channels), size)


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
