"""Classes that are held out of training: their test images show how well a model recognises what nobody labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fedlens.core.labels import UNLABELLED
from fedlens.core.words import count, nearest
from fedlens.data.division import check_classes
from fedlens.data.modalities import noted, only
from fedlens.data.types import FederatedData, HeldOut
from fedlens.errors import ConfigError, DataError

KEY = "data.held_out"


def hold_out(data: FederatedData, names: Sequence[str]) -> FederatedData:
    """`data` without the classes called `names`: no client has a row of them, and those of the global test set are kept
    aside. The other classes are numbered anew; labels of the held-out classes follow behind them. Rows without a label
    are left out, for they may show a held-out class.

    Raises:
        ConfigError: there is no such class, or fewer than two are left.
        DataError: no training image is left, or images of one class only.
    """
    if not names:
        return data
    _check(data, names)
    seen = tuple(name for name in data.class_names if name not in names)
    place = {name: number for number, name in enumerate((*seen, *names))}
    unlabelled = data.labels == UNLABELLED
    numbers = torch.tensor([*(place[name] for name in data.class_names), UNLABELLED])
    labels = numbers[data.labels.masked_fill(unlabelled, -1)]
    trained = ((labels < len(seen)) & ~unlabelled).numpy()
    reason = f"of held-out {'class' if len(names) == 1 else 'classes'} {', '.join(names)}"
    reason += ", and without a label, which may be of these" if unlabelled.any() else ""
    left, note = only(data, trained, trained, reason)
    if not left.clients:
        raise DataError(f"{KEY}: no client has an image of another class; hold out fewer")
    left = replace(left, labels=labels, class_names=seen)
    lacking = check_classes(labels.numpy(), seen, left.clients)
    rows = data.test[~trained[data.test]]
    return noted(replace(left, held_out=HeldOut(tuple(names), rows)), *([note] if note else []), *lacking)


def with_held_out(data: FederatedData) -> FederatedData:
    """`data` whose global test set are the rows of held-out classes, among the names of all classes."""
    assert data.held_out is not None
    names = (*data.class_names, *data.held_out.class_names)
    return replace(data, class_names=names, test=data.held_out.rows, held_out=None)


def held_out_alone(data: FederatedData) -> FederatedData:
    """`data` whose global test set are the rows of held-out classes, among the names of these."""
    assert data.held_out is not None
    labels = data.labels - len(data.class_names)
    return replace(data, labels=labels, class_names=data.held_out.class_names, test=data.held_out.rows, held_out=None)


def _check(data: FederatedData, names: Sequence[str]) -> None:
    """Raises ConfigError: there is no such class, one is named twice, or fewer than two are left."""
    for name in names:
        if name not in data.class_names:
            near = nearest(name, data.class_names)
            some = f"Did you mean {near}?" if near else f"The classes are {', '.join(data.class_names[:20])}"
            raise ConfigError(f"{KEY} = {name!r}: the data has no such class. {some}", code="unknown_name", key=KEY)
    if len(set(names)) < len(names):
        raise ConfigError(f"{KEY}: {', '.join(names)}: one class is named twice", code="invalid_value", key=KEY)
    left = len(data.class_names) - len(names)
    if left < 2:
        text = f"of {count(len(data.class_names), 'class')} {left} would be left to train on; hold out fewer"
        raise ConfigError(f"{KEY}: {text}", code="incompatible", key=KEY)
