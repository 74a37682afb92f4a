"""A user's own `torch` data sets, passed from Python."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fedlens.data.base import Scheme, described
from fedlens.data.class_names import numbering, own_names, pieces, renumbered, whole
from fedlens.data.division import Columns, DivisionPlan, divide, findings_told
from fedlens.data.images import from_pillow
from fedlens.data.labels import normalized
from fedlens.data.types import DataReport, FederatedData
from fedlens.errors import DataError

Images = Dataset[Any]
"""A data set of (image, label). An image is a PIL image; uint8, (H, W, C), (C, H, W) or (H, W), with C = 1 or 3;
or a float tensor (C, H, W), which is used as it is. A label is a class number from 0."""


MOST_GAPS = 20
"""The maximum number of classes without images if there are no class names."""


@dataclass(frozen=True)
class _Part:
    images: list[Tensor]
    labels: list[int]
    split: str
    client: str


def from_datasets(
    data: Images | Mapping[str, Images],
    test: Images | None = None,
    *,
    scheme: Scheme | None,
    clients: int,
    validation: float,
    client_test: float,
    test_fraction: float,
    seed: int,
    partition_seed: int | None = None,
    class_names: Sequence[str] | None = None,
) -> FederatedData:
    """A federation from one data set, partitioned by `scheme`, or from one data set per client (name → data set).

    Every item is read once, transforms included, and all images stay in memory. Without `test`, `test_fraction` of
    the rows is the global test set. Class names come from `class_names`, else the data sets' `classes`, else numbers.
    If data sets number their classes differently, they are matched by name: see `class_names.numbering`.

    Raises:
        DataError: an item is not (image, label), images differ in size or type, or a label has no name; or as `divide`.
    """
    owned = _named(data) if isinstance(data, Mapping) else {"": data}
    given = [("train", name, dataset) for name, dataset in owned.items()]
    given += [] if test is None else [("test", "", test)]
    found = [(split, client, piece) for split, client, dataset in given for piece in pieces(dataset)]
    classes = numbering([own_names(piece) for _, _, piece in found], class_names)
    parts = [_read(piece, split, client) for split, client, piece in found]
    images = _stack([image for part in parts for image in part.images])
    own = [renumbered(part.labels, numbers) for part, numbers in zip(parts, classes.numbers, strict=True)]
    labels = np.array([label for part in own for label in part], np.int64)
    names = classes.names or _numbers(labels)
    _check_labels(labels, names)
    columns = Columns(
        labels,
        names,
        split=_column(parts, [part.split for part in parts]) if test is not None else None,
        clients=_column(parts, [part.client for part in parts]) if isinstance(data, Mapping) else None,
    )
    plan = DivisionPlan(scheme, clients, validation, client_test, test_fraction, seed, partition_seed)
    with findings_told(DataReport(len(labels), notes=classes.notes)):
        division = divide(columns, plan)
    report = DataReport(
        len(labels), notes=(*classes.notes, *division.notes), source="python", scheme=described(division.scheme)
    )
    return FederatedData(
        images, torch.from_numpy(labels), names, division.clients, division.test, report, _content_key(images, labels)
    )


def _named(data: Mapping[str, Images]) -> dict[str, Images]:
    """Client name → data set. Raises DataError: two names are equal without invisible characters."""
    named = {normalized(str(name)): dataset for name, dataset in data.items()}
    if len(named) < len(data):
        raise DataError(f"two clients have one name: {', '.join(map(repr, data))}")
    return named


def _read(dataset: Images, split: str, client: str) -> _Part:
    images, labels = [], []
    where = f"client {client!r}: item" if client else f"{split} data: item"
    for number, item in enumerate(_items(dataset)):
        try:
            image, label = _pair(item)
            labels.append(whole(label))
            images.append(_tensor(image))
        except (TypeError, ValueError, DataError) as error:
            raise DataError(f"{where} {number}: {error}") from error
    return _Part(images, labels, split, client)


def _items(dataset: Images) -> Iterator[Any]:
    """Raises DataError: it is not a data set."""
    if isinstance(dataset, DataLoader):
        raise DataError("a DataLoader in place of a data set: give the data set in it, loader.dataset")
    if isinstance(dataset, str | Path):
        raise DataError(f"{str(dataset)!r} in place of a data set: images in a folder are read by data.path")
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        return (dataset[number] for number in range(len(dataset)))
    if isinstance(dataset, Iterable):
        return iter(dataset)
    raise DataError(f"{type(dataset).__name__} is no data set: give a torch Dataset, or a list of (image, label)")


def _pair(item: Any) -> tuple[Any, Any]:
    """Raises DataError: it is not (image, label)."""
    if isinstance(item, Mapping):
        keys = ", ".join(map(repr, list(item)[:5]))
        raise DataError(f"a mapping of {keys}; give pairs, such as [(row['image'], row['label']) for row in data]")
    if not isinstance(item, tuple | list) or len(item) != 2:
        many = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise DataError(f"a {type(item).__name__}{many}, where (image, label) is needed")
    return item[0], item[1]


def _tensor(image: Any) -> Tensor:
    """uint8 (H, W, C), or the user's float tensor."""
    if hasattr(image, "convert") and hasattr(image, "mode"):
        return torch.from_numpy(np.array(from_pillow(image)))
    tensor = torch.as_tensor(image)
    if tensor.is_floating_point():
        return tensor
    if tensor.dtype != torch.uint8:
        raise DataError(f"an image of type {tensor.dtype}; give uint8 (0 to 255), float, or a PIL image")
    if tensor.ndim == 2:
        return tensor[..., None]
    channels_first = tensor.ndim == 3 and tensor.shape[0] in (1, 3)
    channels_last = tensor.ndim == 3 and tensor.shape[-1] in (1, 3)
    if channels_first and (isinstance(image, Tensor) or not channels_last):
        return tensor.permute(1, 2, 0)
    if channels_last:
        return tensor
    raise DataError(f"a uint8 image of shape {tuple(tensor.shape)}; give (H, W), (H, W, C) or (C, H, W), C = 1 or 3")


def _stack(images: list[Tensor]) -> Tensor:
    if not images:
        raise DataError("the data set is empty")
    if any(image.dtype != images[0].dtype for image in images):
        kinds = ", ".join(sorted({str(image.dtype) for image in images}))
        raise DataError(f"images of different types ({kinds}); give one transform to all data sets")
    if images[0].dtype == torch.uint8 and any(image.shape[-1] == 3 for image in images):
        images = [image.expand(-1, -1, 3) for image in images]
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise DataError(
            f"images of different shapes ({', '.join(map(str, shapes[:3]))}{', …' * (len(shapes) > 3)}); resize them "
            "in the data set's transform, or give the folder as data.path, which FedLens resizes"
        )
    return torch.stack(images).contiguous()


def _numbers(labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Numbers as class names. A few gaps are classes without images; many gaps mean that the labels are not class
    numbers.

    Raises:
        DataError: most numbers up to the largest label do not occur.
    """
    found, count = len(np.unique(labels)), int(labels.max()) + 1
    if count - found > max(found, MOST_GAPS):
        raise DataError(
            f"the labels are {found} different numbers up to {count - 1:,}; number the classes from 0 in the data set, "
            "or give the names of all: class_names="
        )
    return tuple(str(number) for number in range(count))


def _check_labels(labels: NDArray[np.int64], names: tuple[str, ...]) -> None:
    if labels.min() < 0 or labels.max() >= len(names):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(
            f"label {wrong} is not one of the {len(names)} classes (0 to {len(names) - 1}) that have a name"
        )


def _column(parts: list[_Part], values: list[str]) -> NDArray[np.str_]:
    return np.repeat(np.array(values), [len(part.labels) for part in parts])


def _content_key(images: Tensor, labels: NDArray[np.int64]) -> str:
    digest = hashlib.blake2b(f"{images.dtype} {tuple(images.shape)}".encode(), digest_size=16)
    digest.update(images.flatten().view(torch.uint8).numpy().data)
    digest.update(labels.tobytes())
    return digest.hexdigest()
