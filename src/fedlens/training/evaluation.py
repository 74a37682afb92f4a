"""A model on a set of images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.federation.records import Evaluation
from fedlens.training.examples import Examples
from fedlens.training.precision import autocast
from fedlens.training.settings import Precision

EVALUATION_BATCH = 256


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    examples: Examples,
    classes: int,
    *,
    precision: Precision = "fp32",
    batch_size: int = EVALUATION_BATCH,
    ranked: bool = False,
) -> Evaluation:
    """Loss and confusion counts of `model` on all `examples`; when `ranked`, AUROC for two classes.

    Labels at or above `classes`, and the model's outputs beyond it, are counted in a larger confusion matrix.
    """
    model.eval()
    loss, truth, scores = 0.0, [], []
    for inputs, labels in examples.once(batch_size):
        with autocast(precision, examples.device):
            logits = model(inputs).float()
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        truth.append(labels.cpu())
        scores.append(logits.cpu() if classes == 2 else logits.argmax(1, keepdim=True).cpu())
    labels, outputs = torch.cat(truth), torch.cat(scores)
    predicted = outputs.argmax(1) if classes == 2 else outputs.squeeze(1)
    auroc = _auroc(labels, outputs, classes) if ranked else None
    return Evaluation(loss / len(labels), confusion(labels, predicted, classes), auroc)


def confusion(labels: Tensor, predicted: Tensor, classes: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """(classes, classes) counts, true label by predicted label; predictions of unnamed outputs enlarge it."""
    size = max(classes, int(predicted.max()) + 1, int(labels.max()) + 1)
    counts = torch.bincount(labels * size + predicted, minlength=size * size)
    return counts.reshape(size, size).numpy()


def _auroc(labels: Tensor, logits: Tensor, classes: int) -> float | None:
    if classes != 2 or logits.shape[1] != 2 or labels.unique().numel() < 2:
        return None
    from torchmetrics.functional.classification import binary_auroc  # slow to import, needed for two classes only

    return float(binary_auroc(logits.softmax(1)[:, 1], labels))
