"""Evaluate a model on a set of images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.core.records import Evaluation
from fedlens.models.base import Recognizer, classes_and_features
from fedlens.strategies.base import ClassFeatures
from fedlens.training.device import read
from fedlens.training.examples import Examples
from fedlens.training.precision import autocast
from fedlens.training.sections import Precision

EVALUATION_BATCH = 256

Seen = Callable[[int, int], None]
"""Called with (images done, images in all) after every batch."""


def unseen(_done: int, _all: int) -> None:
    """The default callback: does nothing."""


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    examples: Examples,
    classes: int,
    *,
    precision: Precision = "fp32",
    batch_size: int | None = None,
    ranked: bool = False,
    seen: Seen = unseen,
) -> Evaluation:
    """Loss and confusion counts of `model` on all `examples`; when `ranked`, AUROC for two classes.

    Labels and model outputs at or above `classes` enlarge the confusion matrix.

    batch_size  images at once; None: `EVALUATION_BATCH`
    """
    model.eval()
    losses, done, truth, scores = [], 0, [], []
    for inputs, labels in examples.once(batch_size or EVALUATION_BATCH):
        with autocast(precision, examples.device):
            logits = model(inputs).float()
        losses.append(F.cross_entropy(logits, labels, reduction="sum"))
        done += len(labels)
        seen(done, len(examples))
        truth.append(labels)
        scores.append(logits if classes == 2 else logits.argmax(1, keepdim=True))
    labels, outputs, loss = torch.cat(truth).cpu(), torch.cat(scores).cpu(), sum(read(*losses))
    predicted = outputs.argmax(1) if classes == 2 else outputs.squeeze(1)
    two = ranked and outputs.shape[1] == 2
    area = auroc(labels, outputs[:, 1] - outputs[:, 0]) if two else None
    return Evaluation(loss / len(labels), confusion(labels, predicted, classes), area)


@torch.inference_mode()
def predictions(
    model: nn.Module, examples: Examples, *, precision: Precision = "fp32", batch_size: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(N,) predicted class of each of the `examples`, and (N,) its softmax probability."""
    model.eval()
    found = []
    for inputs, _ in examples.once(batch_size or EVALUATION_BATCH):
        with autocast(precision, examples.device):
            logits = model(inputs).float()
        found.append(logits.softmax(1).max(1))
    confidence, predicted = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    return predicted, confidence


@torch.inference_mode()
def class_features(
    model: Recognizer, examples: Examples, *, precision: Precision = "fp32", batch_size: int | None = None
) -> ClassFeatures:
    """What the backbone of `model` gives for all `examples`, summed by label."""
    model.eval()
    sums, rows = (value.to(examples.device) for value in no_features(model))
    for inputs, labels in examples.once(batch_size or EVALUATION_BATCH):
        with autocast(precision, examples.device):
            features = model.backbone(inputs).float()
        member = F.one_hot(labels, len(rows)).to(features.dtype)  # a product repeats to the bit, index_add_ does not
        sums += member.T @ features
        rows += member.sum(0)
    return ClassFeatures(sums, rows)


def no_features(model: Recognizer) -> ClassFeatures:
    """The sums over no row."""
    classes, width = classes_and_features(model)
    return ClassFeatures(torch.zeros(classes, width), torch.zeros(classes))


def confusion(labels: Tensor, predicted: Tensor, classes: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """(classes, classes) counts, true label by predicted label; predictions beyond `classes` enlarge it."""
    size = max(classes, int(predicted.max()) + 1, int(labels.max()) + 1)
    counts = torch.bincount(labels * size + predicted, minlength=size * size)
    return counts.reshape(size, size).numpy()


def auroc(labels: Tensor, scores: Tensor) -> float | None:
    """Area under the ROC curve: the share of (0, 1) pairs in which the 1 has the higher score; ties count half.

    Computed from ranks, where equal scores share their mean rank: U / (n₀ n₁), where U = Σ ranks of the ones −
    n₁ (n₁ + 1) / 2 (Mann and Whitney, 1947, "On a test of whether one of two random variables is stochastically larger
    than the other"). None where it is undefined: one class is missing, or a score is NaN.

    labels  (N,), 0 or 1
    scores  (N,), the larger the more likely a 1
    """
    ones = labels == 1
    pairs = int(ones.sum()) * int((~ones).sum())
    if not pairs or scores.isnan().any():
        return None
    _, place, ties = scores.unique(return_inverse=True, return_counts=True)
    ranks = (ties.cumsum(0) - (ties - 1) / 2.0).double()  # of each different score, from 1
    above = ranks[place[ones]].sum() - ones.sum() * (ones.sum() + 1) / 2.0
    return float(above / pairs)
