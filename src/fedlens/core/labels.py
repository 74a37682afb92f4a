"""Counts of labels, and how unlike the others a client's labels are: distances of label distributions, from 0 (equal)
to 1 (disjoint).

total variation  ½ Σ |p − q|
Jensen-Shannon   ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½ (p + q), in bits: Lin 1991, "Divergence measures based on the
                 Shannon entropy", eq. 4.1
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
"""(…, classes) images of each class."""

UNLABELLED = -100
"""The label of a row without a label: the one that PyTorch's cross-entropy leaves out. Such rows train a model that
learns which text belongs to which image, and nothing else; none is a validation or test row."""


def counted(labels: NDArray[np.int64], classes: int) -> Counts:
    """(classes,) number of `labels` (N,) of each class; rows without a label count for none."""
    return np.bincount(labels[labels != UNLABELLED], minlength=classes).astype(np.int64)


def total_variation(counts: Counts, others: Counts) -> NDArray[np.float64]:
    """Distance of each row of `counts` from `others` (classes,); NaN for a row without images."""
    return np.asarray(np.abs(_shares(counts) - _shares(others)).sum(axis=-1) / 2)


def jensen_shannon(counts: Counts, others: Counts) -> NDArray[np.float64]:
    """Divergence of each row of `counts` from `others` (classes,); NaN as for `total_variation`."""
    ours, theirs = _shares(counts), _shares(others)
    middle = (ours + theirs) / 2
    return np.asarray((_relative_entropy(ours, middle) + _relative_entropy(theirs, middle)) / 2)


def _shares(counts: Counts) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts.sum(axis=-1, keepdims=True))


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(p ‖ q) in bits; 0 log 0 is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = p * np.log2(p / q)
    return np.asarray(np.where(p == 0, 0.0, terms).sum(axis=-1))
