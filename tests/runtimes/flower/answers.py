"""A task, and the honest answer to it, over the wire."""

from __future__ import annotations

import math

import torch
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from fedlens.federation.types import Answer, Mean, Report, Task
from fedlens.runtimes.flower.codec import (
    answer_from,
    answer_record,
)
from fedlens.runtimes.flower.messages import Setup
from fedlens.runtimes.flower.screening import Expected, shapes_of

SETUP = Setup("run-1", {"seed": 3}, ("cat", "dog"), 8, 1)
MODEL = {"conv.weight": torch.ones(4, 1, 3, 3), "head.bias": torch.ones(3)}
UPDATE = {name: value / 8 for name, value in MODEL.items()}
TASK = Task("client1", 7, "train", MODEL, {"lr": 0.1})
METRICS = {"loss": Mean(4.5, 10), "seconds": Mean(0.25, 1)}
NORM = math.sqrt(4 * 9 + 3)
EXPECTED = Expected(10, ("loss", "seconds"), shapes_of(UPDATE), {}, NORM, passes=2)


def answer(payload=UPDATE, weight=10.0, metrics=METRICS, extra=None, **report) -> Answer:
    return Answer(7, "train", Report("client1", weight, metrics, **report), payload, extra or {})


def over_the_wire(content: RecordDict) -> RecordDict:
    """`content` as bytes, and read again by Flower."""
    return recorddict_from_proto(RecordDictProto.FromString(recorddict_to_proto(content).SerializeToString()))


def received(sent: Answer, expected: Expected = EXPECTED, task: Task = TASK) -> Answer:
    return answer_from(over_the_wire(answer_record(sent)), task, expected)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and value.shape == other[name].shape and torch.equal(value, other[name])
        for name, value in one.items()
    )
