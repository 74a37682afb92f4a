"""How good a model is on labelled pictures: a folder for each class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from fedlens.core.records import Evaluation
from fedlens.core.words import count, nearest
from fedlens.data.display_names import listed
from fedlens.data.export import TEST, folder_names
from fedlens.data.found import Unreadable
from fedlens.data.images import MAX_PIXELS
from fedlens.data.labels import normalized
from fedlens.data.tree import Folder, printable, walk
from fedlens.errors import DataError
from fedlens.inference.predict import Answer, Predictor
from fedlens.tracking.intervals import wilson
from fedlens.tracking.summary import named_confusion
from fedlens.training.evaluation import confusion


@dataclass(frozen=True)
class Labelled:
    """images with their labels, numbers of the model's classes; notes: what is left out, and what is missing."""

    images: tuple[Path, ...]
    labels: tuple[int, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Mistake:
    """One picture that was taken for another class."""

    image: Path
    true: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Evaluated:
    """mistakes: the most confident first; unreadable: images that are in no figure."""

    evaluation: Evaluation
    class_names: tuple[str, ...]
    mistakes: tuple[Mistake, ...]
    unreadable: tuple[Unreadable, ...]

    @property
    def figures(self) -> dict[str, Any]:
        """As a section of a run's metrics: accuracy, its interval, and the number of images."""
        found = self.evaluation
        low, high = wilson(found.accuracy, found.examples) or (None, None)
        return {"accuracy": found.accuracy, "accuracy_low": low, "accuracy_high": high, "examples": found.examples}


def labelled(folder: Path, class_names: Sequence[str]) -> Labelled:
    """The pictures below `folder`: a folder in it has the name of a class, as it is or as `fedlens data` writes it.

    Raises:
        DataError: there is no such folder, or none in it has the name of a class and images.
    """
    if not folder.is_dir():
        what = "is a file; give the folder that has a folder for each class" if folder.exists() else "does not exist"
        raise DataError(f"{printable(folder)} {what}")
    label_of = {name: label for label, name in reversed([*enumerate(folder_names(class_names))])}
    label_of |= {normalized(name): label for label, name in reversed([*enumerate(class_names)])}
    tree, _ = walk(folder)
    images: dict[str, list[Path]] = {}
    for inner in tree.folders:  # two folders may have one name, in two Unicode forms
        images.setdefault(inner.name, []).extend(_images(inner))
    known = {name: files for name, files in images.items() if name in label_of and files}
    if not known:
        raise DataError(_no_class(tree, label_of, class_names))
    pairs = [(file, label_of[name]) for name, files in known.items() for file in files]
    files, labels = zip(*pairs, strict=True)
    return Labelled(files, labels, tuple(_notes(tree, images, label_of, class_names)))


def evaluate(
    predictor: Predictor,
    found: Labelled,
    *,
    mistakes: int,
    max_pixels: int = MAX_PIXELS,
    seen: Callable[[int, int], None] = lambda _done, _all: None,
) -> Evaluated:
    """Let the model answer for every picture, and count.

    mistakes  how many of the most confident ones are kept
    seen      called with (images done, images in all)

    Raises:
        DataError: no picture can be read.
    """
    unreadable, worst, loss = list[Unreadable](), list[Mistake](), 0.0
    truth, predicted = list[int](), list[int]()
    answers = predictor.answers(found.images, max_pixels=max_pixels)
    for number, (answer, label) in enumerate(zip(answers, found.labels, strict=True), start=1):
        seen(number, len(found.images))
        if isinstance(answer, Unreadable):
            unreadable.append(answer)
            continue
        truth.append(label)
        predicted.append(int(answer.logits.argmax()))
        loss += float(F.cross_entropy(answer.logits, torch.tensor(label)))
        if predicted[-1] != label:
            worst = sorted([*worst, _mistake(predictor, answer, label)], key=lambda one: -one.probability)[:mistakes]
    if not truth:
        raise DataError(
            f"none of {count(len(found.images), 'picture')} can be read; the first: {unreadable[0].problem}"
        )
    counts = confusion(torch.tensor(truth), torch.tensor(predicted), len(predictor.class_names))
    names = predictor.class_names
    return Evaluated(Evaluation(loss / len(truth), counts), names, tuple(worst), tuple(unreadable))


@dataclass(frozen=True)
class ClassRow:
    """images: how many; recall: None without images; taken_for: the commonest wrong answer and its count, or ""."""

    name: str
    images: int
    recall: float | None
    taken_for: str


def rows(found: Evaluated) -> list[ClassRow]:
    """One for each class, in order."""
    counts, names = named_confusion(found.evaluation.confusion, found.class_names)
    return [_row(counts[label], label, names) for label in range(len(names))]


def displayed(found: Evaluated, display: Mapping[str, str]) -> Evaluated:
    """With display names in place of class names, for people."""
    mistakes = [
        replace(one, true=display.get(one.true, one.true), predicted=display.get(one.predicted, one.predicted))
        for one in found.mistakes
    ]
    return replace(found, class_names=tuple(map(display.__getitem__, found.class_names)), mistakes=tuple(mistakes))


def in_json(found: Evaluated, notes: Sequence[str], display: Mapping[str, str] | None = None) -> dict[str, Any]:
    """All figures. The confusion matrix has the true classes as rows, in the order of `classes`. Classes have their own
    names; with `display`, also those."""
    result = found.evaluation
    counts, _ = named_confusion(result.confusion, found.class_names)
    return {
        **found.figures,
        "balanced_accuracy": result.balanced_accuracy,
        "loss": result.loss,
        "classes": [
            {"class": row.name, **_display(display, row.name), "images": row.images, "recall": row.recall}
            for row in rows(found)
        ],
        "confusion": counts.tolist(),
        "mistakes": [
            {"image": str(one.image), "true": one.true, "predicted": one.predicted, "probability": one.probability}
            for one in found.mistakes
        ],
        "unreadable": [{"image": str(one.image), "error": one.problem} for one in found.unreadable],
        "notes": list(notes),
    }


def _display(display: Mapping[str, str] | None, name: str) -> dict[str, str]:
    return {} if display is None else {"display": display.get(name, name)}


def _row(counts: NDArray[np.int64], label: int, names: Sequence[str]) -> ClassRow:
    images, right = int(counts.sum()), int(counts[label])
    others = counts.copy()
    others[label] = 0
    taken_for = f"{names[int(others.argmax())]} ({others.max():,})" if others.any() else ""
    return ClassRow(names[label], images, right / images if images else None, taken_for)


def _mistake(predictor: Predictor, answer: Answer, label: int) -> Mistake:
    (best,) = predictor.prediction(answer, top=1).guesses
    return Mistake(answer.image, predictor.name(label), best.label, best.probability)


def _images(folder: Folder) -> list[Path]:
    return [inner.path / name for _, inner in folder.below() for name in inner.images]


def _no_class(tree: Folder, label_of: Mapping[str, int], class_names: Sequence[str]) -> str:
    names = [inner.name for inner in tree.folders]
    there = f"its folders are {listed(names)}" if names else "there are no folders in it"
    inside = [inner.path for inner in tree.folders if any(one.name in label_of for one in inner.folders)]
    meant = min(inside, key=lambda path: path.name != TEST, default=None)
    return (
        f"{printable(tree.path)}: no folder in it has images and the name of a class: {there}; the model's classes are "
        f"{listed(class_names)}. Give the folder that has a folder for each class"
        f"{'' if meant is None else f', such as {printable(meant)}'}"
    )


def _notes(
    tree: Folder, images: Mapping[str, Sequence[Path]], label_of: Mapping[str, int], class_names: Sequence[str]
) -> Iterator[str]:
    for name, files in images.items():
        if name not in label_of and files:
            near = nearest(name, class_names)
            hint = f"; rename it if it is {near!r}" if near else ""
            yield f"left out: {count(len(files), 'picture')} in {printable(name)}, which is no class of the model{hint}"
    if tree.images:
        yield f"left out: {count(len(tree.images), 'picture')} outside of the folders of classes"
    held = {label_of[name] for name, files in images.items() if name in label_of and files}
    if missing := [name for label, name in enumerate(class_names) if label not in held]:
        yield f"no pictures of {count(len(missing), 'class')} of the model: {listed(missing)}"
