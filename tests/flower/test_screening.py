"""Answers that no honest site gives are named, and those that one gives are taken."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from tests.flower.answers import (
    EXPECTED,
    METRICS,
    MODEL,
    SETUP,
    TASK,
    UPDATE,
    answer,
    received,
    same,
)

from fedlens.core.types import ClientReport, ClientResult, MeanMetric, Task, TaskSettings
from fedlens.errors import ProtocolError
from fedlens.flower.codec import (
    STYPE,
    result_from,
    result_record,
)
from fedlens.flower.messages import HEAD, PROTOCOL, Refusal, query, reply
from fedlens.training.screening import Expected, check_confusion, shapes_of

# -- answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_comes_back() -> None:
    sent = answer(extra={"control": torch.ones(2, dtype=torch.bfloat16)}, stored=True)
    back = received(sent, replace(EXPECTED, extra=shapes_of(sent.extra)))
    assert back.report == sent.report
    assert (back.round, back.kind, back.client) == (7, "train", "client1")
    assert same(back.payload, UPDATE)
    assert same(back.extra, sent.extra)


@pytest.mark.parametrize(
    "sent",
    [
        answer(weight=10.0),
        answer(weight=0.5),
        answer({name: 900 * value for name, value in MODEL.items()}),
        answer(metrics={**METRICS, "own": MeanMetric(-3.5, 2)}),
    ],
    ids=["all-images", "less-than-one", "long-update", "own-metric"],
)
def test_what_an_honest_site_may_do(sent: ClientResult) -> None:
    back = received(sent)
    assert back.report == sent.report
    assert same(back.payload, sent.payload)


def with_(name: str, value: torch.Tensor) -> ClientResult:
    return answer({**UPDATE, name: value})


def weight(value: float) -> ClientResult:
    return answer(weight=value)


def metric(total: float, weight: float) -> ClientResult:
    return answer(metrics={**METRICS, "loss": MeanMetric(total, weight)})


HOSTILE = {
    "wrong shape": (with_("head.bias", torch.ones(4)), r"head\.bias is float32 4 instead of float32 3"),
    "flattened": (with_("conv.weight", torch.ones(36)), r"float32 36 instead of float32 4×1×3×3"),
    "scalar": (with_("head.bias", torch.tensor(1.0)), r"head\.bias is float32 scalar instead of float32 3"),
    "wrong type": (with_("head.bias", torch.ones(3).double()), r"head\.bias is float64 3 instead of float32 3"),
    "whole numbers": (with_("head.bias", torch.ones(3).int()), r"head\.bias is int32 3 instead of float32 3"),
    "missing key": (answer({"head.bias": UPDATE["head.bias"]}), r"the update lacks conv\.weight"),
    "nothing": (answer({}), r"the update lacks conv\.weight, head\.bias"),
    "surplus key": (with_("backdoor", torch.ones(1)), "the update has backdoor, which nobody asked for"),
    "surplus extra": (answer(extra={"more": torch.ones(1)}), "the extra has more, which nobody asked for"),
    "NaN": (with_("head.bias", torch.tensor([0.0, math.nan, 0.0])), r"numbers in head\.bias that are not finite"),
    "infinite": (with_("head.bias", torch.full((3,), math.inf)), r"numbers in head\.bias that are not finite"),
    "huge": (
        with_("head.bias", torch.full((3,), 1e30)),
        r"an update of norm 1\.73e\+30, against a model of norm 6\.24",
    ),
    "hundredfold": (with_("conv.weight", torch.ones(400, 1, 3, 3)), "float32 400×1×3×3 instead of float32 4×1×3×3"),
    "negative weight": (weight(-1.0), r"a weight of -1\.0"),
    "no weight": (weight(0.0), r"a weight of 0\.0"),
    "weight NaN": (weight(math.nan), "a weight of nan"),
    "weight infinite": (weight(math.inf), "a weight of inf"),
    "weight too large": (weight(11.0), "a weight of 11, but the site has reported 10 images"),
    "staleness": (answer(metrics={**METRICS, "staleness": MeanMetric(0, 1)}), "a staleness, which only the server"),
    "no loss": (answer(metrics={"seconds": MeanMetric(1, 1)}), "the result lacks the metric loss"),
    "no metrics": (answer(metrics={}), "the result lacks the metric loss, seconds"),
    "loss NaN": (metric(math.nan, 10), r"a metric of \[nan, 10\.0\]"),
    "loss infinite": (metric(math.inf, 10), r"a metric of \[inf, 10\.0\]"),
    "loss beyond counting": (metric(1e308, 10), r"a metric of \[1e\+308, 10\.0\]"),
    "loss negative": (metric(-4.5, 10), r"a loss of -0\.45, which is not between 0 and inf"),
    "loss of nothing": (metric(0, 0), "a loss of nan"),
    "loss of more images": (
        metric(4.5, 21),
        "a loss over 21 images, but .* reported 10, to be passed 2 times",
    ),
    **{
        f"{name} of {value:g}": (
            answer(metrics={**METRICS, name: MeanMetric(value, 1)}),
            f"an? {name} of .*, which is not between",
        )
        for name, values in {
            "accuracy": (-5e91, -1e-9, 1.001, 5.0),
            "shared.accuracy": (-1.0, 2.0),
            "own.accuracy": (-1.0, 2.0),
            "own.loss": (-1.0,),
            "loss_before": (-1.0,),
            "loss_after": (-1.0,),
            "clipped": (-0.5, 1.5),
            "seconds": (-1.0,),
            "update_norm": (-1.0,),
            "drift": (-1.0,),
            "bytes_up": (-1.0, 39 * 4 + 1.0),  # 4·9 + 3 floats of 4 bytes
            "bytes_down": (-1.0, 39 * 4 + 1.0),
        }.items()
        for value in values
    },
    "too many metrics": (
        answer(metrics={**METRICS, **{f"own{number}": MeanMetric(1, 1) for number in range(99)}}),
        "101 metrics, where 100 may be sent at most",
    ),
    "a metric's long name": (answer(metrics={**METRICS, "x" * 101: MeanMetric(1, 1)}), "a metric of the name 'x+…'"),
    "a metric's wild name": (
        answer(metrics={**METRICS, "a\x1b[2J": MeanMetric(1, 1)}),
        r"a metric of the name 'a�\[2J'",
    ),
    "metric's weight negative": (metric(4.5, -10), r"a metric of \[4\.5, -10\.0\]"),
    "another round": (replace(answer(), round=6), "a reply that does not answer the task"),
    "another client": (replace(answer(), report=ClientReport("client2", 10.0, METRICS)), "does not answer the task"),
}


@pytest.mark.parametrize(("sent", "line"), HOSTILE.values(), ids=list(HOSTILE))
def test_an_answer_that_cannot_be_honest(sent: ClientResult, line: str) -> None:
    with pytest.raises(ProtocolError, match=line):
        received(sent)


def test_a_number_beside_the_update_is_never_negative() -> None:
    sent = answer(extra={"h": torch.tensor(-2.5, dtype=torch.float64)})
    with pytest.raises(ProtocolError, match=r"a h of -2\.5, below 0"):
        received(sent, replace(EXPECTED, extra=shapes_of(sent.extra)))


def test_numbers_that_would_overflow_when_squared() -> None:
    shapes = shapes_of({"value": torch.ones(1).double()})
    with pytest.raises(ProtocolError, match=r"an update of norm 1e\+300"):
        received(answer({"value": torch.full((1,), 1e300, dtype=torch.float64)}), replace(EXPECTED, payload=shapes))


def altered(record: str, **values) -> RecordDict:
    """An honest answer but for some values of one record; None takes one away."""
    content = result_record(answer())
    for name, value in values.items():
        if value is None:
            del content[record][name]
        else:
            content[record][name] = value
    return content


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (altered(HEAD, weight=None), "cannot be read: 'weight'"),
        (altered(HEAD, weight="a lot"), "cannot be read"),
        (altered(HEAD, weight=[1.0, 2.0]), "cannot be read"),
        (altered(HEAD, stored=None), "cannot be read: 'stored'"),
        (altered(HEAD, round=None), "does not answer the task"),
        (altered(HEAD, round="7"), "does not answer the task"),
        (altered(HEAD, kind="evaluate"), "does not answer the task"),
        (altered("metrics", loss=4.5), r"a metric of 4\.5"),
        (altered("metrics", loss=[1.0, 2.0, 3.0]), r"a metric of \[1\.0, 2\.0, 3\.0\]"),
        (altered("metrics", loss=[]), r"a metric of \[\]"),
        (altered("payload", part0=Array("uint8", (4,), STYPE, b"1234")), "tensors that cannot be read"),
        (RecordDict(), "not FedLens'"),
        (RecordDict({HEAD: ConfigRecord({"protocol": PROTOCOL, "is": "ClientResult"})}), "does not answer the task"),
        (reply(Refusal("no")), "does not answer the task"),
        (query("prepare", SETUP), "does not answer the task"),
    ],
)
def test_a_reply_that_is_no_answer(content: RecordDict, line: str) -> None:
    with pytest.raises(ProtocolError, match=line):
        result_from(content, TASK, EXPECTED)


@pytest.mark.parametrize("record", ["metrics", "payload", "extra"])
def test_an_answer_without_a_record(record: str) -> None:
    content = result_record(answer())
    del content[record]
    with pytest.raises(ProtocolError, match=f"cannot be read: '{record}'"):
        result_from(content, TASK, EXPECTED)


@pytest.mark.parametrize("record", ["metrics", "payload"])
def test_a_record_of_another_kind(record: str) -> None:
    content = result_record(answer())
    content[record] = ArrayRecord() if record == "metrics" else MetricRecord()
    with pytest.raises(ProtocolError, match=f"cannot be read: '{record}'"):
        result_from(content, TASK, EXPECTED)


# -- confusion counts --------------------------------------------------------------------------------------------------

COUNT = Task("client1", 7, "evaluate_shared", MODEL, TaskSettings(splits=("test", "val")))
COUNTS = torch.tensor([[2, 1], [0, 1]])
HELD = (3, 1)
"""Images of each class that the site has reported: the sums of the rows."""
COUNTING = Expected(6, (), outputs=3, counts={"test": HELD, "val": HELD}, check_payload=check_confusion)


def counted(value=COUNTS, name="test", **loss: MeanMetric) -> ClientResult:
    metrics = {f"{name}.loss": MeanMetric(2.0, 4.0)} | {f"{key}.loss": mean for key, mean in loss.items()}
    return ClientResult(7, "evaluate_shared", ClientReport("client1", 4.0, metrics), {name: value})


@pytest.mark.parametrize("split", ["test", "val"])
def test_counts_come_back(split: str) -> None:
    back = received(counted(name=split), COUNTING, COUNT)
    assert torch.equal(back.payload[split], COUNTS)
    assert back.report.metrics[f"{split}.loss"] == MeanMetric(2.0, 4.0)


def test_counts_of_unnamed_outputs_may_be_larger() -> None:
    wide = torch.zeros(3, 3, dtype=torch.int64)
    wide[:2, :2] = COUNTS
    assert torch.equal(received(counted(wide), COUNTING, COUNT).payload["test"], wide)


HOSTILE_COUNTS = {
    "negative": (counted(torch.tensor([[5, 0], [0, -1]])), "negative counts"),
    "too large a side": (counted(torch.eye(4, dtype=torch.int64)), "counts of the form int64 4×4"),
    "not square": (counted(torch.ones(2, 3).long()), "counts of the form int64 2×3"),
    "one row": (counted(torch.ones(4).long()), "counts of the form int64 4"),
    "scalar": (counted(torch.tensor(4)), "counts of the form int64 scalar"),
    "three sides": (counted(torch.ones(2, 2, 1).long()), "counts of the form int64 2×2×1"),
    "fractions": (counted(COUNTS.double()), "counts of the form float64 2×2"),
    "of training images": (counted(name="train"), "counts of train"),
    "of anything": (counted(name="backdoor"), "counts of backdoor"),
    "without a loss": (replace(counted(), report=ClientReport("client1", 4.0, {})), "counts of test, without a loss"),
    "more than reported": (counted(COUNTS * 2, test=MeanMetric(2.0, 8.0)), "8 counts of test, but .* 6 images"),
    "overflowing": (counted(COUNTS * 2**61, test=MeanMetric(2.0, 4.0)), r"counts of test, but .* 6 images"),
    "other than its loss'": (counted(test=MeanMetric(2.0, 400.0)), r"4 counts of test, and a loss of 400 images"),
    "none": (counted(torch.zeros(2, 2).long(), test=MeanMetric(0.0, 0.0)), "0 counts of test"),
    "empty": (counted(torch.zeros(0, 0).long(), test=MeanMetric(0.0, 0.0)), "0 counts of test"),
    "surplus extra": (replace(counted(), extra={"more": torch.ones(9)}), "the extra has more, which nobody asked for"),
    "of other classes": (
        counted(COUNTS.flip(0)),
        "1 counts of test in class 0, but the site has reported 3 images",
    ),
    "of a class that it does not have": (
        counted(torch.tensor([[2, 1, 0], [0, 0, 0], [0, 0, 1]])),
        "0 counts of test in class 1, but the site has reported 1 images",
    ),
    "of fewer images": (
        counted(torch.tensor([[2, 1], [0, 0]]), test=MeanMetric(2.0, 3.0)),
        "0 counts of test in class 1, but the site has reported 1 images",
    ),
    "negative loss": (counted(test=MeanMetric(-2.0, 4.0)), r"a test\.loss of -0\.5, which is not between 0 and inf"),
    "weight too large": (replace(counted(), report=ClientReport("client1", 7.0, {})), "a weight of 7, but .* 6 images"),
}


@pytest.mark.parametrize(("sent", "line"), HOSTILE_COUNTS.values(), ids=list(HOSTILE_COUNTS))
def test_counts_that_cannot_be_honest(sent: ClientResult, line: str) -> None:
    with pytest.raises(ProtocolError, match=line):
        received(sent, COUNTING, COUNT)


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (answer({}, metrics={"loss": MeanMetric(1, 2)}), "lacks the metric accuracy"),
        (answer(UPDATE, metrics={"loss": MeanMetric(1, 2), "accuracy": MeanMetric(1, 2)}), "which nobody asked for"),
        (
            answer({}, metrics={"loss": MeanMetric(1, 10), "accuracy": MeanMetric(1, 2)}),
            "an accuracy over 2 images in .* about 10",
        ),
        (
            answer({}, metrics={"loss": MeanMetric(1, 2), "accuracy": MeanMetric(1, 10)}),
            "a loss over 2 images in a .* about 10",
        ),
    ],
)
def test_an_evaluation_that_cannot_be_honest(sent: ClientResult, line: str) -> None:
    with pytest.raises(ProtocolError, match=line):
        received(
            replace(sent, kind="evaluate"),
            Expected(10, ("loss", "accuracy"), whole=True),
            replace(TASK, kind="evaluate"),
        )


def test_the_size_that_is_let_in() -> None:
    # 4·9 + 3 floats of 4 bytes; counts of two splits, 3 × 3 of 8 bytes
    assert EXPECTED.nbytes == 39 * 4
    assert COUNTING.nbytes == 2 * 9 * 8
