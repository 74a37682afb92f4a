"""Tasks and answers as Flower records. No pickle: tensors travel as safetensors texts, many small ones in one.
Flower sends every array of a record by calls of its own, and hundreds of small ones would take longer than training.

What comes from a site is not trusted: `answer_from` checks names, types, shapes, sizes and numbers against what the
task's strategy would send, before anything is added to a sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedlens.errors import ProtocolError
from fedlens.federation.types import Answer, Mean, Report, State, Task, TaskKind
from fedlens.runtimes.flower.messages import HEAD, PROTOCOL, Setup, head, read_head

STYPE = "safetensors"
"""Flower's `Array.stype`: what the bytes are."""

PART_BYTES = 4_000_000
"""Of one array: few arrays for a small model, and little memory beside a large one."""

DTYPES = frozenset(
    {
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    }
)

LONGEST_UPDATE = 1e3
"""How many times longer (L2 norm) than the model an update may be: far above what training gives."""

LARGEST_METRIC = 1e100
"""Far above what is measured, and far below what overflows when a round's metrics are added up."""

Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class Expected:
    """What an honest answer looks like.

    examples        images that the site has reported for this kind of task
    metrics         names that have to be there
    payload, extra  of a training task: name → (type, shape)
    norm            L2 norm of the shared model
    outputs         of an evaluation task: the model's outputs, which is the largest side of a confusion matrix
    """

    examples: int
    metrics: tuple[str, ...]
    payload: Shapes = field(default_factory=dict)
    extra: Shapes = field(default_factory=dict)
    norm: float = 0.0
    outputs: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        shapes = (*self.payload.values(), *self.extra.values())
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in shapes) + 2 * 8 * self.outputs**2


def shapes_of(state: State) -> Shapes:
    return {name: (value.dtype, tuple(value.shape)) for name, value in state.items()}


def arrays(state: State) -> ArrayRecord:
    """Tensors → Flower's record; rows in order, whatever a tensor's memory format."""
    return ArrayRecord({f"part{number}": _array(part) for number, part in enumerate(_parts(state))})


def _parts(state: State) -> Iterator[dict[str, Tensor]]:
    """`state` in parts of `PART_BYTES` at most, unless one tensor alone is larger."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, value in state.items():
        if part and size + value.nbytes > PART_BYTES:
            yield part
            part, size = {}, 0
        part[name] = value
        size += value.nbytes
    if part:
        yield part


def _array(part: State) -> Array:
    content = save({name: value.detach().cpu().contiguous() for name, value in part.items()})
    return Array("uint8", (len(content),), STYPE, content)


def tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """Flower's record → tensors, on the CPU. The record is empty then: a model is large enough once.

    Raises:
        ProtocolError: it does not hold safetensors, or tensors of a type that FedLens does not send.
    """
    state: dict[str, Tensor] = {}
    for name in list(record):
        state |= _read(record.pop(name))
    return state


def _read(array: Array) -> dict[str, Tensor]:
    if array.stype != STYPE:
        raise ProtocolError(f"tensors in the format {array.stype!r}, which is not FedLens'")
    try:
        state = load(array.data)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ProtocolError(f"tensors that cannot be read: {error}") from error
    for name, value in state.items():
        if value.dtype not in DTYPES:
            raise ProtocolError(f"{name} has the type {value.dtype}, which is not FedLens'")
    return state


def task_record(task: Task, setup: Setup, payload: ArrayRecord) -> RecordDict:
    """A task for a site; `payload` is shared by all tasks of a round, so that Flower sends it to its store once."""
    first = head(
        task.kind, setup, round=task.round, client=task.client, expects=-1 if task.expects is None else task.expects
    )
    settings = MetricRecord({name: float(value) for name, value in task.settings.items()})
    return RecordDict({HEAD: first, "settings": settings, "payload": payload})


def task_from(content: RecordDict) -> Task:
    """The task in a message from the server.

    Raises:
        ProtocolError: it is not one.
    """
    record = read_head(content)
    try:
        expects = int(cast(int, record["expects"]))
        settings = {str(name): float(cast(float, value)) for name, value in content.metric_records["settings"].items()}
        return Task(
            client=str(record["client"]),
            round=int(cast(int, record["round"])),
            kind=cast(TaskKind, record["kind"]),
            payload=tensors(content.array_records["payload"]),
            settings=settings,
            expects=None if expects < 0 else expects,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"a task that cannot be read: {error}") from error


def answer_record(answer: Answer) -> RecordDict:
    """A site's answer as a message to the server."""
    report = answer.report
    first = ConfigRecord(
        {
            "protocol": PROTOCOL,
            "is": "Answer",
            "kind": answer.kind,
            "round": answer.round,
            "client": report.client,
            "weight": report.weight,
            "stored": report.stored,
        }
    )
    metrics = MetricRecord({name: [float(mean.total), float(mean.weight)] for name, mean in report.metrics.items()})
    return RecordDict(
        {HEAD: first, "metrics": metrics, "payload": arrays(answer.payload), "extra": arrays(answer.extra)}
    )


def answer_from(content: RecordDict, task: Task, expected: Expected) -> Answer:
    """A site's answer to `task`.

    Raises:
        ProtocolError: it is not an answer to this task, or one that cannot be honest.
    """
    record = read_head(content)
    answered = tuple(record.get(key) for key in ("is", "kind", "round", "client"))
    if answered != ("Answer", task.kind, task.round, task.client):
        raise ProtocolError("a reply that does not answer the task")
    try:
        weight = float(cast(float, record["weight"]))
        metrics = {str(name): _mean(value) for name, value in content.metric_records["metrics"].items()}
        records = content.array_records["payload"], content.array_records["extra"]
        payload = tensors(records[0])
        extra = payload if records[1] is records[0] else tensors(records[1])  # Flower keeps what is equal once
        report = Report(task.client, weight, metrics, bool(record["stored"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"an answer that cannot be read: {error}") from error
    if not 0 < weight < math.inf:
        raise ProtocolError(f"a weight of {weight}")
    _check(payload, extra, report, expected)
    return Answer(task.round, task.kind, report, payload, extra)


def _check(payload: State, extra: State, report: Report, expected: Expected) -> None:
    if missing := [name for name in expected.metrics if name not in report.metrics]:
        raise ProtocolError(f"the answer lacks the metric {', '.join(missing)}")
    if report.weight > expected.examples:
        raise ProtocolError(f"a weight of {report.weight:g}, but the site has reported {expected.examples} images")
    for name in ("accuracy", "shared.accuracy"):
        if name in report.metrics and not report.metrics[name].value <= 1:
            raise ProtocolError(f"an accuracy of {report.metrics[name].value:.3g}")
    _check_shapes("extra", extra, expected.extra)
    for name, value in extra.items():
        if value.dim() == 0 and float(value) < 0:
            raise ProtocolError(f"a {name} of {float(value):.3g}, below 0")
    if expected.outputs:
        _check_confusion(payload, report, expected)
        return
    _check_shapes("update", payload, expected.payload)
    norm, _ = _norm(payload), _norm(extra)
    if norm > LONGEST_UPDATE * (expected.norm + 1):
        raise ProtocolError(f"an update of norm {norm:.3g}, against a model of norm {expected.norm:.3g}")


def _norm(state: State) -> float:
    """L2 norm of all together, in one look at each number.

    Raises:
        ProtocolError: numbers that are not finite.
    """
    norms = {name: _length(value) for name, value in state.items()}
    for name, norm in norms.items():
        if not math.isfinite(norm):
            raise ProtocolError(f"numbers in {name} that are not finite")
    return math.hypot(*norms.values())


def _length(value: Tensor) -> float:
    """L2 norm; not finite where a number is not."""
    single = value if value.dtype.itemsize > 2 and value.is_floating_point() else value.float()
    norm = float(torch.linalg.vector_norm(single))
    return norm if math.isfinite(norm) else float(torch.linalg.vector_norm(single, dtype=torch.float64))


def _check_confusion(payload: State, report: Report, expected: Expected) -> None:
    """Counts by split, each with its loss over as many images, in a square that the model can fill."""
    for name, value in payload.items():
        side = len(value) if value.dim() == 2 else 0
        if name not in ("test", "val") or f"{name}.loss" not in report.metrics:
            raise ProtocolError(f"counts of {name}, without a loss" if name in ("test", "val") else f"counts of {name}")
        if value.dtype != torch.int64 or value.shape != (side, side) or side > expected.outputs:
            raise ProtocolError(f"counts of the form {_said(value.dtype, tuple(value.shape))}")
        if bool((value < 0).any()):
            raise ProtocolError("negative counts")
        images, scored = float(value.double().sum()), report.metrics[f"{name}.loss"].weight
        if not 0 < images <= expected.examples:
            raise ProtocolError(f"{images:g} counts of {name}, but the site has reported {expected.examples} images")
        if images != scored:
            raise ProtocolError(f"{images:g} counts of {name}, and a loss of {scored:g} images")


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


def _mean(value: object) -> Mean:
    if not (isinstance(value, list) and len(value) == 2):
        raise ValueError(f"a metric of {value!r}")
    total, weight = map(float, value)
    if not (abs(total) < LARGEST_METRIC and 0 <= weight < LARGEST_METRIC):
        raise ValueError(f"a metric of {value!r}")
    return Mean(total, weight)
