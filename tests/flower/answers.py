"""A task, and the honest answer to it, over the wire."""

from __future__ import annotations

import math

import torch
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from fedlens.core.types import ClientReport, ClientResult, MeanMetric, Task, TaskSettings
from fedlens.flower.codec import (
    result_from,
    result_record,
)
from fedlens.flower.messages import Setup
from fedlens.training.screening import Expected, check_update, shapes_of

SETUP = Setup("run-1", {"seed": 3}, ("cat", "dog"), 8, 1)
MODEL = {"conv.weight": torch.ones(4, 1, 3, 3), "head.bias": torch.ones(3)}
UPDATE = {name: value / 8 for name, value in MODEL.items()}
TASK = Task("client1", 7, "train", MODEL, TaskSettings(lr=0.1))
METRICS = {"loss": MeanMetric(4.5, 10), "seconds": MeanMetric(0.25, 1)}
NORM = math.sqrt(4 * 9 + 3)
EXPECTED = Expected(10, ("loss", "seconds"), shapes_of(UPDATE), {}, NORM, passes=2, check_payload=check_update)


def answer(payload=UPDATE, weight=10.0, metrics=METRICS, extra=None, **report) -> ClientResult:
    return ClientResult(7, "train", ClientReport("client1", weight, metrics, **report), payload, extra or {})


def over_the_wire(content: RecordDict) -> RecordDict:
    """`content` as bytes, and read again by Flower."""
    return recorddict_from_proto(RecordDictProto.FromString(recorddict_to_proto(content).SerializeToString()))


def received(sent: ClientResult, expected: Expected = EXPECTED, task: Task = TASK) -> ClientResult:
    return result_from(over_the_wire(result_record(sent)), task, expected)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and value.shape == other[name].shape and torch.equal(value, other[name])
        for name, value in one.items()
    )
