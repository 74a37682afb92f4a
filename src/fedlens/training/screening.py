"""Validation of client results: every number, name, dtype and shape is compared with what is known of the client and
the task, before anything is added to a sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from fedlens.core import clean
from fedlens.core.types import ClientReport, ClientResult, MeanMetric, Split, State, Task
from fedlens.errors import ProtocolError

LONGEST_UPDATE = 1e3
"""The largest allowed ratio of an update's L2 norm to the model's: far above what training gives."""

ROUNDED = 1.01
"""The relative tolerance for numbers computed here: float32 sums depend on their order."""

CheckPayload = Callable[[ClientResult, "Expected"], ClientResult]
"""Checks a result's tensors, and gives the result with them: in decoded form, where the check had to decode them."""

Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class Expected:
    """What a valid result looks like.

    examples        images that the client has reported for this kind of task
    metrics         names that must be present
    payload, extra  of a training task: name → (dtype, shape)
    norm            L2 norm of the shared model
    largest_extras  norm of the payload → the largest norm of each extra tensor, where known
    passes          of a training task: the maximum number of passes over the images
    outputs         of an "evaluate_shared" task: the model's output size, the largest size of a confusion matrix
    counts          of an "evaluate_shared" task: images of each class that the client has reported, by split
    check_payload   checks the tensors
    decode          gives a result in the form in which an aggregator adds it
    whole           losses and accuracies cover all the images that the result is about
    parts           of a training task: the parts of the model that have weights of their own
    unlabelled      of a training task: the client has reported no label at all, so it has no loss and no accuracy
    """

    examples: int
    metrics: tuple[str, ...]
    payload: Shapes = field(default_factory=dict)
    extra: Shapes = field(default_factory=dict)
    norm: float = 0.0
    largest_extras: Callable[[float], Mapping[str, float]] = lambda _norm: {}
    passes: int = 1
    outputs: int = 0
    counts: Mapping[Split, Sequence[int]] = field(default_factory=dict)
    check_payload: CheckPayload = field(default_factory=lambda: check_tensors)
    decode: Callable[[ClientResult], ClientResult] = lambda result: result
    whole: bool = False
    parts: frozenset[str] = frozenset()
    unlabelled: bool = False

    @property
    def nbytes(self) -> int:
        """Total size of the tensors in bytes."""
        shapes = (*self.payload.values(), *self.extra.values())
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in shapes) + 2 * 8 * self.outputs**2


def shapes_of(state: State) -> Shapes:
    return {name: (value.dtype, tuple(value.shape)) for name, value in state.items()}


def check(result: ClientResult, task: Task, expected: Expected) -> ClientResult:
    """Check a result against its task; gives the result as `expected.check_payload` does.

    Raises:
        ProtocolError: the result is not valid for `task`; the message names the mistake.
    """
    report, extra = result.report, result.extra
    if missing := [name for name in expected.metrics if name not in report.metrics]:
        raise ProtocolError(f"the result lacks the metric {', '.join(missing)}")
    if report.weight > expected.examples:
        raise ProtocolError(f"a weight of {report.weight:g}, but the site has reported {expected.examples} images")
    _check_part_weights(report, expected)
    _check_shapes("extra", extra, expected.extra)
    for name, value in extra.items():
        if value.dim() == 0 and float(value) < 0:
            raise ProtocolError(f"a {name} of {float(value):.3g}, below 0")
    checked = expected.check_payload(result, expected)
    _check_metrics(result, task, expected)
    return checked


def _check_part_weights(report: ClientReport, expected: Expected) -> None:
    if report.part_weights.keys() != expected.parts:
        said, wanted = (clean.line(", ".join(sorted(parts)[:3])) for parts in (report.part_weights, expected.parts))
        raise ProtocolError(f"weights of the parts {said or 'none'} instead of {wanted or 'none'}")
    for part, weight in report.part_weights.items():
        if not 0 <= weight <= expected.examples:
            raise ProtocolError(
                f"a weight of {weight:g} for {part}, but the site has reported {expected.examples} images"
            )


def check_tensors(result: ClientResult, expected: Expected) -> ClientResult:
    """Check names, dtypes and shapes, and that all numbers are finite.

    Raises:
        ProtocolError: one of these checks fails.
    """
    _check_shapes("update", result.payload, expected.payload)
    _norm(result.payload)
    return result


def check_update(result: ClientResult, expected: Expected) -> ClientResult:
    """As `check_tensors`; also bounds the norm of the decoded update, relative to the model's, and of each extra
    tensor. Gives the decoded result.

    Raises:
        ProtocolError: one of these checks fails.
    """
    _check_shapes("update", result.payload, expected.payload)
    decoded = expected.decode(result)
    extra, norm, _ = decoded.extra, _norm(decoded.payload), _norm(decoded.extra)
    if norm > LONGEST_UPDATE * (expected.norm + 1):
        raise ProtocolError(f"an update of norm {norm:.3g}, against a model of norm {expected.norm:.3g}")
    for name, most in expected.largest_extras(norm).items():
        if (length := _length(extra[name])) > ROUNDED * most:
            raise ProtocolError(f"{_an(name)} of {length:.3g}, which cannot be above {most:.3g} with this update")
    return decoded


MEASURED_HERE = frozenset({"staleness", "virtual_seconds"})
"""Metrics that the server adds to what clients report."""

OF_IMAGES = {"loss": math.inf, "loss_before": math.inf, "loss_after": math.inf, "accuracy": 1.0}
"""The largest value of each metric that is a mean over images."""


def _check_metrics(result: ClientResult, task: Task, expected: Expected) -> None:
    """Check that values are in their ranges and cover no more images than exist. A plugin's own metrics have no known
    range."""
    largest = {**dict.fromkeys(("seconds", "update_norm", "drift"), math.inf), "clipped": 1.0, "data_share": 1.0}
    largest["bytes_up"] = float(_nbytes(result.payload) + _nbytes(result.extra))
    largest["bytes_down"] = float(_nbytes(task.payload))
    for name, mean in result.report.metrics.items():
        if name in MEASURED_HERE:
            raise ProtocolError(f"{_an(name)}, which only the server measures")
        word = name.rpartition(".")[2]
        counts_images = word in OF_IMAGES
        most = OF_IMAGES[word] if counts_images else largest.get(name)
        of_nothing = expected.unlabelled and counts_images and mean == MeanMetric(0.0, 0.0)
        if not of_nothing and most is not None and not 0 <= mean.value <= most:
            raise ProtocolError(f"{_an(name)} of {mean.value:.3g}, which is not between 0 and {most:g}")
        if counts_images:
            _check_images(name, mean, result, expected)


def _check_images(name: str, mean: MeanMetric, result: ClientResult, expected: Expected) -> None:
    """Raises ProtocolError: a loss or accuracy covers more, or other, images than the result."""
    if not (expected.outputs or expected.whole) and mean.weight > expected.passes * expected.examples:
        raise ProtocolError(
            f"{_an(name)} over {mean.weight:g} images, but the site has reported {expected.examples}, to be passed "
            f"{expected.passes} times at most"
        )
    if expected.whole and mean.weight != result.report.weight:
        raise ProtocolError(f"{_an(name)} over {mean.weight:g} images in a result about {result.report.weight:g}")


def _an(name: str) -> str:
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def _nbytes(state: State) -> int:
    return sum(value.nbytes for value in state.values())


def _norm(state: State) -> float:
    """L2 norm of all tensors together, computed in one pass.

    Raises:
        ProtocolError: a number is not finite.
    """
    norms = {name: _length(value) for name, value in state.items()}
    for name, norm in norms.items():
        if not math.isfinite(norm):
            raise ProtocolError(f"numbers in {name} that are not finite")
    return math.hypot(*norms.values())


def _length(value: Tensor) -> float:
    """L2 norm; not finite where one of the numbers is not."""
    single = value if value.dtype.itemsize > 2 and value.is_floating_point() else value.float()
    norm = float(torch.linalg.vector_norm(single))
    return norm if math.isfinite(norm) else float(torch.linalg.vector_norm(single, dtype=torch.float64))


def check_confusion(result: ClientResult, expected: Expected) -> ClientResult:
    """Check the confusion matrices: one for each split, with a loss over as many images, no larger than the model's
    output, and with row sums equal to the class counts that the client has reported.

    Raises:
        ProtocolError: one of these checks fails.
    """
    payload, report = result.payload, result.report
    for name, value in payload.items():
        side = len(value) if value.dim() == 2 else 0
        if name not in ("test", "val"):
            raise ProtocolError(f"counts of {name}")
        if f"{name}.loss" not in report.metrics:
            raise ProtocolError(f"counts of {name}, without a loss")
        if value.dtype != torch.int64 or value.shape != (side, side) or side > expected.outputs:
            raise ProtocolError(f"counts of the form {_said(value.dtype, tuple(value.shape))}")
        if bool((value < 0).any()):
            raise ProtocolError("negative counts")
        images, scored = float(value.double().sum()), report.metrics[f"{name}.loss"].weight
        if not 0 < images <= expected.examples:
            raise ProtocolError(f"{images:g} counts of {name}, but the site has reported {expected.examples} images")
        if images != scored:
            raise ProtocolError(f"{images:g} counts of {name}, and a loss of {scored:g} images")
        _check_classes(name, value, expected.counts.get(cast(Split, name), ()))
    return result


def _check_classes(name: str, value: Tensor, reported: Sequence[int]) -> None:
    """Raises ProtocolError: the row sums differ from the class counts that the client has reported."""
    rows = value.sum(1).tolist()
    width = max(len(rows), len(reported))
    for label, (counted, held) in enumerate(zip(_padded(rows, width), _padded(reported, width), strict=True)):
        if counted != held:
            raise ProtocolError(f"{counted} counts of {name} in class {label}, but the site has reported {held} images")


def _padded(counts: Sequence[int], width: int) -> list[int]:
    return [*counts, *[0] * (width - len(counts))]


def _check_shapes(what: str, state: State, wanted: Shapes) -> None:
    if missing := sorted(wanted.keys() - state.keys()):
        raise ProtocolError(f"the {what} lacks {', '.join(missing[:3])}")
    if surplus := sorted(state.keys() - wanted.keys()):
        raise ProtocolError(f"the {what} has {', '.join(surplus[:3])}, which nobody asked for")
    for name, (dtype, shape) in wanted.items():
        value = state[name]
        if (value.dtype, tuple(value.shape)) != (dtype, shape):
            raise ProtocolError(f"{name} is {_said(value.dtype, tuple(value.shape))} instead of {_said(dtype, shape)}")


def _said(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {'×'.join(map(str, shape)) or 'scalar'}"
