"""Tensors, tasks and answers through Flower's records; and answers that no honest site gives."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from tests.flower.answers import (
    MODEL,
    SETUP,
    TASK,
    over_the_wire,
    same,
)

from fedlens.core.types import Stage, Task, TaskSettings
from fedlens.errors import ProtocolError
from fedlens.flower.codec import (
    DTYPES,
    STYPE,
    arrays,
    task_from,
    task_record,
    tensors,
)
from fedlens.flower.messages import HEAD

# -- tensors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", sorted(DTYPES, key=str), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)], ids=str)
def test_every_type_and_shape_comes_back(dtype, shape) -> None:
    value = (torch.arange(max(math.prod(shape), 1))[: math.prod(shape)].reshape(shape) - 1.5).to(dtype)
    sent = over_the_wire(RecordDict({"payload": arrays({"value": value})}))
    assert same(tensors(sent.array_records["payload"]), {"value": value})


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf, 1e-45, -0.0])
def test_special_numbers_keep_their_bits(special: float) -> None:
    value = torch.tensor([special])
    back = tensors(arrays({"value": value}))["value"]
    assert torch.equal(back.view(torch.int32), value.view(torch.int32))


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(48.0).reshape(2, 3, 2, 4).contiguous(memory_format=torch.channels_last),
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(9.0)[::2],
        torch.tensor(3.0).expand(4, 2),
        torch.ones(3, requires_grad=True),
    ],
    ids=["channels-last", "transposed", "strided", "expanded", "with-gradient"],
)
def test_the_memory_format_does_not_matter(value) -> None:
    back = tensors(arrays({"value": value}))["value"]
    assert torch.equal(back, value)
    assert back.is_contiguous()


def test_what_arrives_may_be_written_to() -> None:
    sent = arrays({"value": torch.zeros(3)})
    tensors(sent)["value"].add_(1)
    assert not sent  # what is read is not kept twice


def test_small_tensors_are_packed_into_few_arrays() -> None:
    """Each array takes calls of its own; a large one takes memory beside the rest."""
    assert len(arrays({f"layer{number}": torch.ones(3) for number in range(500)})) == 1
    large = {f"layer{number}": torch.full((700_000,), float(number)) for number in range(5)}
    sent = arrays({**large, "all": torch.ones(3_000_000)})
    assert [round(len(array.data) / 1e6, 1) for array in sent.values()] == [8.4, 5.6, 12.0]
    assert same(tensors(sent), {**large, "all": torch.ones(3_000_000)})


def test_parts_of_one_vector_are_sent_each_once() -> None:
    """A strategy's extras are views of one vector."""
    vector = torch.arange(6.0)
    parts = {"first": vector[:2], "second": vector[2:].view(2, 2)}
    assert same(tensors(arrays(parts)), parts)


def text(header: str, content: bytes = b"") -> bytes:
    """A safetensors text with that header."""
    return len(header).to_bytes(8, "little") + header.encode() + content


def entry(dtype: str, shape: str, begin: int, end: int) -> str:
    return f'{{"value":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}}}'


FLOAT = torch.ones(2).numpy().tobytes()
BROKEN = {
    "nothing": b"",
    "cut": text(entry("F32", "[2]", 0, 8), FLOAT[:-1]),
    "more": text(entry("F32", "[2]", 0, 8), FLOAT * 100),
    "another shape": text(entry("F32", "[2,2]", 0, 8), FLOAT),
    "negative shape": text(entry("F32", "[-2,-1]", 0, 8), FLOAT),
    "uncountable shape": text(entry("F32", "[9223372036854775808,0]", 0, 0)),
    "overflowing shape": text(entry("F32", "[2147483648,2147483648,2147483648]", 0, 8), FLOAT),
    "outside": text(entry("F32", "[2]", 8, 16), FLOAT),
    "backwards": text(entry("F32", "[2]", 8, 0), FLOAT),
    "no such type": text(entry("F31", "[2]", 0, 8), FLOAT),
    "no header": text("[]"),
    "a header without an end": text('{"value"'),
    "a header larger than all": (2**60).to_bytes(8, "little") + b"{}",
    "rubbish": b"rubbish" * 100,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_bytes_that_are_no_tensors(content: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^tensors that cannot be read: "):
        tensors(ArrayRecord({"part0": Array("uint8", (len(content),), STYPE, content)}))


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (Array(torch.ones(2).numpy()), "tensors in the format 'numpy.ndarray'"),
        (arrays({"value": torch.ones(1).to(torch.float8_e4m3fn)})["part0"], "value has the type torch.float8_e4m3fn"),
    ],
    ids=["NumPy's", "float8"],
)
def test_an_array_that_is_not_ours(array: Array, line: str) -> None:
    with pytest.raises(ProtocolError, match=line):
        tensors(ArrayRecord({"part0": array}))


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store_version", [None, 0, 6])
@pytest.mark.parametrize("kind", ["train", "evaluate", "evaluate_shared"])
def test_a_task_comes_back(kind, store_version) -> None:
    task = Task("clïent 1/ä", 7, kind, MODEL, TaskSettings(0.1, 2, ("test",)), store_version, stage=Stage(1, False, 2))
    back = task_from(over_the_wire(task_record(task, SETUP, arrays(task.payload))))
    assert replace(back, payload={}) == replace(task, payload={})
    assert same(back.payload, MODEL)


def test_tasks_of_a_round_share_their_tensors() -> None:
    """Flower stores a part once under the hash of its content, so the model is sent to its store once a round."""
    payload = arrays(MODEL)
    parts = [task_record(replace(TASK, client=name), SETUP, payload)["payload"].object_id for name in ("a", "b")]
    assert parts[0] == parts[1]


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content.pop("payload"),
        lambda content: content[HEAD].pop("settings"),
        lambda content: content[HEAD].pop("round"),
        lambda content: content[HEAD].pop("client"),
        lambda content: content[HEAD].pop("store_version"),
        lambda content: content[HEAD].pop("kind"),
        lambda content: content[HEAD].update({"round": "seven"}),
        lambda content: content[HEAD].update({"round": float("inf")}),
        lambda content: content[HEAD].update({"store_version": [1, 2]}),
        lambda content: content[HEAD].update({"settings": '{"lr": [0.1, 0.2]}'}),
        lambda content: content[HEAD].update({"settings": '{"speed": 1}'}),
        lambda content: content[HEAD].update({"stage": [1]}),
        lambda content: content[HEAD].update({"kind": "dance"}),
        lambda content: content.update({"payload": ArrayRecord({"part0": Array("uint8", (9,), STYPE, b"")})}),
    ],
)
def test_a_broken_task(harm) -> None:
    content = task_record(TASK, SETUP, arrays(MODEL))
    harm(content)
    with pytest.raises(ProtocolError, match=r"a task that cannot be read|tensors that cannot be read"):
        task_from(content)
