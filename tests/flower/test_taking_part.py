"""Which sites may take part in a run, and what becomes of rubbish that they send."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
import torch
from flwr.app import Error, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ObjectTree
from tests.flower.fakes import Script, TinySite, altering
from tests.flower.stage import content, nan, of, only_failure, put

from fedlens.core.types import ClientFailure, ClientResult
from fedlens.flower.codec import arrays
from fedlens.flower.messages import HEAD, Prepared, Refusal, Visit, reply

pytestmark = pytest.mark.usefixtures("quick")


# -- rubbish -----------------------------------------------------------------------------------------------------------


def without_content(script, incoming, parts):
    """A message to which no content belongs."""
    honest = script.honest(incoming, parts)
    *_, root = honest.parts
    head, _, body = honest.parts[root].partition(b"\x00")
    kind, _, size = head.split(b" ")
    return replace(
        honest, parts={root: kind + b"  " + size + b"\x00" + body}, tree=ObjectTree(object_id=root).SerializeToString()
    )


def raised(code: int):
    return altering(lambda message: make_message(message.metadata, error=Error(code, "it broke")))


def broken_parts(script, incoming, parts):
    """The last of the parts, which is the message itself, is not what Flower writes."""
    honest = script.honest(incoming, parts)
    *_, root = honest.parts
    return replace(honest, parts={**honest.parts, root: b"Message  5\x00rubbish"})


def another_thing(script, incoming, parts):
    """Not a message at all, but a record."""
    honest = script.honest(incoming, parts)
    *_, root = honest.parts
    record = next(part for part in honest.parts.values() if part.startswith(b"MetricRecord"))
    return replace(honest, parts={**honest.parts, root: record})


def missing_part(script, incoming, parts):
    honest = script.honest(incoming, parts)
    first, *_ = honest.parts
    return replace(honest, parts={name: part for name, part in honest.parts.items() if name != first})


def hundredfold(records: RecordDict) -> None:
    records["payload"] = arrays({"head.bias": torch.rand(1_100_000)})


RUBBISH = {
    "not a number": (content(nan), r"its result was not used: numbers in head\.bias that are not finite"),
    "too large": (content(hundredfold), "its result was not used: .*larger than any answer to this task can be"),
    "weight": (put(HEAD, weight=1e9), r"a weight of 1e\+09, but the site has reported 12 images"),
    "other round": (put(HEAD, round=5), "a reply that does not answer the task"),
    "other client": (put(HEAD, client="client1"), "a reply that does not answer the task"),
    "other version": (put(HEAD, protocol=99), "speaks version 99"),
    "nothing": (content(lambda records: records.clear()), "a message that is not FedLens'"),
    "no content": (without_content, "its result was not used: a broken message"),
    "an introduction": (content(lambda r: r.update(reply(Prepared((1,), (1,), (1,))))), "does not answer the task"),
    "broken bytes": (broken_parts, "its result was not used: a broken message"),
    "no message": (another_thing, "its result was not used: a broken message"),
    "an app that raised": (raised(ErrorCode.CLIENT_APP_RAISED_EXCEPTION), "its result was not used: it broke"),
    "a refusal": (content(lambda r: r.update(reply(Refusal("no time")))), "^no time$"),
}


@pytest.mark.parametrize(("act", "line"), RUBBISH.values(), ids=list(RUBBISH))
def test_rubbish_is_that_sites_failure(stage, act, line: str) -> None:
    stage.join(0, train=act)
    stage.join(1)
    stage.open(2)
    outcomes = list(stage.train("client0", "client1"))
    assert of(outcomes, ClientResult) == ["client1"]
    failed = only_failure(outcomes)
    assert (failed.client, failed.round, failed.answered) == ("client0", 1, True)
    assert re.search(line, failed.reason), failed.reason
    assert of(stage.train("client1", round_number=2), ClientResult) == ["client1"]


def test_a_site_that_was_cut_off_while_it_answered_is_asked_again(stage) -> None:
    def cut_off_once(script, incoming, parts):
        return (
            script.honest(incoming, parts) if "train" in stage.heard(0)[:-1] else missing_part(script, incoming, parts)
        )

    stage.join(0, train=cut_off_once)
    stage.join(1)
    stage.open(2)
    assert of(stage.train("client0", "client1"), ClientResult) == ["client0", "client1"]
    assert stage.heard(0).count("train") == 2


def test_a_site_that_diverged_is_a_failure(stage) -> None:
    class Diverges(TinySite):
        def run(self, task, _setup):
            return ClientFailure(task.client, task.round, "training diverged")

    honest = stage.site(0)
    stage.join(0, site=Diverges(**{name: getattr(honest, name) for name in honest.__dataclass_fields__}))
    stage.open(1)
    (failure,) = stage.train("client0")
    assert (failure.reason, failure.answered) == ("training diverged", True)


# -- who may take part -------------------------------------------------------------------------------------------------


def test_a_second_site_of_a_partition_stays_out_by_name(stage) -> None:
    stage.join(0)
    stage.open(1)
    second = stage.join(0, site=stage.site(0, identity="another machine"))
    assert stage.ready() == ["client0"]
    line = "partition 0 (client0) is already here from another place, with 16 images: give each client a --partition_id"
    assert any(line in note for note in stage.notes), stage.notes
    assert second.farewell.kind == "refuse"
    assert "give each client a --partition_id of its own" in second.farewell.text


def test_a_name_is_taken_once(stage) -> None:
    stage.join(0)
    stage.open(1)
    stage.join(1, site=stage.site(0, identity="another machine", partition=1))
    stage.ready()
    assert any("client0) is already here from another place" in note for note in stage.notes)


def test_the_second_one_going_away_leaves_the_firsts_task_alone(stage) -> None:
    stage.join(0)
    stage.open(1)
    first = stage.nodes["client0"]
    stage.join(0, site=stage.site(0, identity="another machine"))
    stage.ready()
    outcomes = stage.train("client0")
    stage.superlink.leave(stage.nodes["client0"])
    assert of(outcomes, ClientResult) == ["client0"]
    assert [kind for node, kind in stage.superlink.heard if node == first].count("train") == 1


@pytest.mark.parametrize(("key", "ready"), [("", 1), ("client0", 1), ("client1", 0)])
def test_a_key_is_one_sites(stage, key: str, ready: int) -> None:
    site = stage.join(0, key=key)
    assert len(stage.open()) == ready
    if not ready:
        assert "its key is client1's, and it is client0 (partition_id = 0): start it with" in site.farewell.text


@pytest.mark.parametrize("kind", ["describe", "prepare"])
@pytest.mark.parametrize(
    ("act", "line"),
    [
        (content(lambda records: records.clear()), "a message that is not FedLens'"),
        (put(HEAD, protocol=0), "speaks version 0 of FedLens' protocol"),
        (put(HEAD, more=1), "more: Unexpected keyword argument"),
        (content(lambda records: records[HEAD].update({"is": "ClientResult"})), "its reply does not fit the question"),
        (broken_parts, "a broken message"),
        (without_content, "a broken message"),
        (content(lambda records: records.update(reply(Refusal("not with us")))), "stays out: not with us"),
    ],
)
def test_a_site_that_cannot_be_understood_stays_out(stage, kind: str, act, line: str) -> None:
    stage.join(0, **{kind: act})
    stage.join(1)
    assert stage.open(1) == ["client1"]
    stage.ready()
    assert any(line in note for note in stage.notes), stage.notes
    assert of(stage.train("client1"), ClientResult) == ["client1"]


@pytest.mark.parametrize("counts", [(1, 2), (1, 2, 3, 4), (0, 0, 0)])
def test_counts_must_fit_the_classes(stage, counts) -> None:
    stage.join(0, prepare=put(HEAD, train=list(counts)))
    stage.open()
    assert stage.ready() == []
    assert any("stays out: it has no training images of the run's 3 classes" in note for note in stage.notes)


def test_a_clock_that_is_wrong_is_said(stage) -> None:
    stage.join(0, site=stage.site(0, clock=time.time() - 3600))
    stage.open(1)
    assert any(re.search(r"client0's clock is 3\d\d\d s behind", note) for note in stage.notes)


def test_one_that_was_refused_is_not_asked_again(stage) -> None:
    stage.join(0, prepare=content(lambda records: records.update(reply(Refusal("not with us")))))
    stage.open()
    stage.ready()
    assert stage.heard(0) == ["describe", "prepare"]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(lambda message: make_message(message.metadata, reply(Visit())), id="the doctor"),
        pytest.param(
            lambda message: make_message(message.metadata, error=Error(ErrorCode.NODE_UNAVAILABLE, "gone")),
            id="one that left",
        ),
    ],
)
def test_who_is_there_with_a_key_after_somebody_else_is_asked(stage, before) -> None:
    """With its key a site is the same node to the server, which may have been busy when somebody left and it came."""
    acts = iter([altering(before)])

    def describe(script, incoming, parts):
        return next(acts, Script.honest)(script, incoming, parts)

    stage.join(0, describe=describe)
    assert stage.open(1) == ["client0"]
    assert stage.heard(0) == ["describe", "describe", "prepare"]
    assert not any("stays out" in note for note in stage.notes)
