"""Tasks and results as Flower records. No pickle: tensors travel in the safetensors format, small ones together in one
array: Flower sends every array by calls of its own, and hundreds of small ones would take longer than training.

Results of sites are not trusted: `result_from` checks names, types, shapes, sizes and numbers against those that the
task's kind expects, before anything is added to a sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedlens.core import clean
from fedlens.core.types import ClientReport, ClientResult, MeanMetric, Stage, State, Task
from fedlens.errors import ConfigError, ProtocolError
from fedlens.flower.messages import HEAD, PROTOCOL, Setup, head, read_head
from fedlens.training.screening import Expected, check
from fedlens.training.tasks.base import settings_adapter

STYPE = "safetensors"
"""Flower's `Array.stype`: the format of the bytes."""

PART_BYTES = 10_000_000
"""Size of one array: a small model needs few arrays, and a large one little memory in addition."""

DTYPES = frozenset(
    {
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    }
)

LARGEST_METRIC = 1e100
"""Largest value of a metric: far above what is measured, and no sum of a round's metrics overflows."""

MOST_METRICS = 100
LONGEST_METRIC_NAME = 100


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
    """Flower's record → tensors, on the CPU. The record is emptied, so that the model is in memory once.

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
        raise ProtocolError(f"tensors that cannot be read: {clean.line(str(error))}") from error
    for name, value in state.items():
        if value.dtype not in DTYPES:
            raise ProtocolError(f"{name} has the type {value.dtype}, which is not FedLens'")
    return state


def task_record(task: Task, setup: Setup, payload: ArrayRecord) -> RecordDict:
    """A task for a site; `payload` is shared by all tasks of a round, so that Flower sends it to its store once."""
    first = head(
        task.kind,
        setup,
        round=task.round,
        client=task.client,
        store_version=-1 if task.store_version is None else task.store_version,
        settings=settings_adapter(task.kind).dump_json(task.settings).decode(),
        stage=[task.stage.number, int(task.stage.last), task.stage.attempt],
    )
    return RecordDict({HEAD: first, "payload": payload})


def task_from(content: RecordDict) -> Task:
    """The task in a message from the server.

    Raises:
        ProtocolError: it is not one.
    """
    record = read_head(content)
    try:
        kind, store_version = str(record["kind"]), int(cast(int, record["store_version"]))
        number, last, attempt = map(int, cast(list[int], record["stage"]))
        return Task(
            client=str(record["client"]),
            round=int(cast(int, record["round"])),
            kind=kind,
            payload=tensors(content.array_records["payload"]),
            settings=settings_adapter(kind).validate_json(str(record["settings"])),
            store_version=None if store_version < 0 else store_version,
            stage=Stage(number, bool(last), attempt),
        )
    except ValidationError as error:
        raise ProtocolError(f"a task that cannot be read: settings: {error.errors()[0]['msg']}") from error
    except (KeyError, TypeError, ValueError, OverflowError, ConfigError) as error:
        raise ProtocolError(f"a task that cannot be read: {clean.line(str(error))}") from error


def result_record(result: ClientResult) -> RecordDict:
    """A site's result as a message to the server."""
    report = result.report
    first = ConfigRecord(
        {
            "protocol": PROTOCOL,
            "is": "ClientResult",
            "kind": result.kind,
            "round": result.round,
            "client": report.client,
            "weight": report.weight,
            "stored": report.stored,
        }
    )
    metrics = MetricRecord({name: [float(mean.total), float(mean.weight)] for name, mean in report.metrics.items()})
    weights = MetricRecord({part: float(weight) for part, weight in report.part_weights.items()})
    tensors = {"payload": arrays(result.payload), "extra": arrays(result.extra)}
    return RecordDict({HEAD: first, "metrics": metrics, "part_weights": weights, **tensors})


def result_from(content: RecordDict, task: Task, expected: Expected) -> ClientResult:
    """A site's result of `task`, checked and decoded.

    Raises:
        ProtocolError: it is not a result of this task, or its content is not what an honest site sends.
    """
    record = read_head(content)
    answered = tuple(record.get(key) for key in ("is", "kind", "round", "client"))
    if answered != ("ClientResult", task.kind, task.round, task.client):
        raise ProtocolError("a reply that does not answer the task")
    try:
        weight = float(cast(float, record["weight"]))
        metrics = _metrics(content.metric_records["metrics"])
        records = content.array_records["payload"], content.array_records["extra"]
        payload = tensors(records[0])
        extra = payload if records[1] is records[0] else tensors(records[1])  # Flower keeps what is equal once
        parts = {part: float(cast(float, value)) for part, value in content.metric_records["part_weights"].items()}
        report = ClientReport(task.client, weight, metrics, bool(record["stored"]), parts)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"a result that cannot be read: {clean.line(str(error))}") from error
    if not 0 < weight < math.inf:
        raise ProtocolError(f"a weight of {weight}")
    return check(ClientResult(task.round, task.kind, report, payload, extra), task, expected)


def _metrics(record: MetricRecord) -> dict[str, MeanMetric]:
    """The metrics by name.

    Raises:
        ValueError: there are too many, or one has no proper name or value.
    """
    if len(record) > MOST_METRICS:
        raise ValueError(f"{len(record):,} metrics, where {MOST_METRICS} may be sent at most")
    for name in record:
        if len(name) > LONGEST_METRIC_NAME or not clean.is_clean(name):
            raise ValueError(f"a metric of the name {clean.line(name, LONGEST_METRIC_NAME)!r}")
    return {name: _mean(value) for name, value in record.items()}


def _mean(value: object) -> MeanMetric:
    if not (isinstance(value, list) and len(value) == 2):
        raise ValueError(f"a metric of {clean.line(repr(value), 60)}")
    total, weight = map(float, value)
    if not (abs(total) < LARGEST_METRIC and 0 <= weight < LARGEST_METRIC):
        raise ValueError(f"a metric of {value!r}")
    return MeanMetric(total, weight)
