"""A hostile client on the package's own protocol: absurd values in every field give a named refusal or failure, an
honest client beside it is not disturbed, and nothing that a terminal obeys is shown or kept."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from flwr.app import Message, RecordDict
from hypothesis import given
from tests.flower.fakes import Script
from tests.flower.stage import SETUP, SHARED, content, put

from fedlens.core.types import ClientFailure, ClientReport, ClientResult, MeanMetric, Task, TaskSettings
from fedlens.errors import ProtocolError
from fedlens.flower.codec import arrays, result_from, result_record, task_record
from fedlens.flower.message_handler import Goodbye, MessageHandler
from fedlens.flower.message_sender import flower_type
from fedlens.flower.messages import (
    HEAD,
    Description,
    Prepared,
    Refusal,
    Setup,
    head,
    read_reply,
    reply,
)
from fedlens.training.screening import Expected, check_update, shapes_of

pytestmark = pytest.mark.usefixtures("quick")

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\n" + "x" * 3000


def assert_harmless(*texts: str) -> None:
    for text in texts:
        assert not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in text), text
        assert len(text) < 1500


# -- who introduces itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "line"),
    [
        ({"images": 46 * 10**17}, "images: Input should be less than"),
        ({"images": 1001}, "it claims 1,001 images, and server.max_examples is 1,000"),
        (
            {"class_names": [f"c{i}" for i in range(6)]},
            "its 6 classes there would be 6, and server.max_classes is 5",
        ),
        ({"class_names": [HOSTILE]}, r"class_names.0: String should have at most 200 characters"),
        ({"class_names": ["\x1b[2J"]}, "class_names.0: Value error, it has characters that cannot be shown: �[2J"),
        ({"name": "../../pwned"}, "name: String should match"),
        ({"name": HOSTILE}, "name: String should have at most 100 characters"),
        ({"identity": HOSTILE}, "identity: String should have at most 100 characters"),
        ({"partition": -1}, "partition: Input should be greater than or equal to 0"),
        ({"native_size": -1}, "native_size: Input should be greater than or equal to 0"),
        ({"channels": 2}, "channels: Input should be 1 or 3"),
        ({"clock": 1e300}, "clock: Input should be less than"),
        ({HOSTILE[:40]: 1}, "�[2J�]0;owned��31m� xxxxxxxxxxxxxxxxxxxx: Unexpected keyword argument"),
        ({HOSTILE: 1}, "a Description that cannot be read: �[2J�]0;owned��31m� xxx"),
    ],
    ids=lambda value: next(iter(value))[:20] if isinstance(value, dict) else "",
)
def test_a_lie_in_the_introduction_keeps_a_site_out(stage, lie: dict[str, Any], line: str) -> None:
    stage.join(0, describe=content(lambda records: records[HEAD].update(lie)))
    stage.join(1)
    assert [site.name for site in stage.runtime.described(1)] == ["client1"]
    assert stage.open(1) == ["client1"]
    (note,) = [note for note in stage.notes if "stays out" in note]
    assert line in note
    assert_harmless(*stage.notes)


@pytest.mark.parametrize("field", ["device", "fedlens", "flwr"])
def test_what_is_only_shown_is_cleaned(stage, field: str) -> None:
    stage.join(0, describe=put(HEAD, **{field: HOSTILE}))
    assert stage.open(1) == ["client0"]
    assert_harmless(*stage.notes, *(info.device for info in stage.runtime.known()))


def test_classes_are_bounded_for_all_sites_together(stage) -> None:
    """Three classes of the tests' data, and three others: one more than `server.max_classes`."""
    stage.join(0)
    stage.runtime.described(1)
    stage.join(1, describe=put(HEAD, class_names=["x", "y", "z"]))
    assert stage.ready() == []
    assert [site.name for site in stage.runtime.described(1)] == ["client0"]
    line = "client1 stays out: with its 3 classes there would be 6, and server.max_classes is 5"
    assert any(note.startswith(line) for note in stage.notes), stage.notes


def test_once_the_classes_are_settled_a_site_does_not_add_to_them(stage) -> None:
    stage.open()
    stage.join(0, describe=put(HEAD, class_names=[f"c{i}" for i in range(50)]))
    assert stage.ready() == ["client0"]
    assert stage.runtime.known()[0].counts["train"] == (4, 4, 4)


@pytest.mark.parametrize("claim", [{"train": [10**9, 1, 1]}, {"unlabelled": 10**9}])
def test_a_site_has_no_more_images_than_it_said(stage, claim) -> None:
    stage.join(0, prepare=put(HEAD, **claim))
    stage.open()
    assert stage.ready() == []
    assert any("it reports 1000000" in note and "introduced itself with 16" in note for note in stage.notes)


@pytest.mark.parametrize("kind", ["describe", "prepare", "train"])
@pytest.mark.parametrize("final", [True, False])
def test_a_refusal_is_cut_and_cleaned(stage, kind: str, final: bool) -> None:
    def refuse(records: RecordDict) -> None:
        records.clear()
        records.update(reply(Refusal("")))
        records[HEAD].update({"reason": HOSTILE * 100, "final": final})

    stage.join(0, **{kind: content(refuse)})
    stage.open(int(kind == "train"))
    stage.ready()
    outcomes = list(stage.train("client0")) if kind == "train" else []
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, ClientFailure)]
    assert any("�[2J�]0;owned" in text for text in [*stage.notes, *reasons])
    assert_harmless(*stage.notes, *reasons)


# -- who answers -------------------------------------------------------------------------------------------------------


def altered_metrics(**metrics: Any):
    return content(lambda records: records["metrics"].update(metrics))


@pytest.mark.parametrize(
    ("act", "line"),
    [
        (put(HEAD, weight=4.6e19), r"a weight of 4.6e+19, but the site has reported 12 images"),
        (altered_metrics(loss=[1.0, 1e12]), "a loss over 1e+12 images, but the site has reported 12"),
        (altered_metrics(**{f"m{i}": [1.0, 1.0] for i in range(5000)}), " metrics, where 100 may be sent at most"),
        (altered_metrics(**{HOSTILE: [1.0, 1.0]}), "a metric of the name '�[2J�]0;owned��31m� xxx"),
        (altered_metrics(**{f"{'m' * 60}{i}": [1.0, 1.0] for i in range(40_000)}), "a MetricRecord of "),
        (content(lambda records: records.update({"payload": arrays({HOSTILE: torch.ones(1)})})), "the update lacks "),
        (content(lambda records: records[HEAD].update({"protocol": HOSTILE})), "speaks version"),
    ],
)
def test_a_lie_in_an_answer_is_that_clients_failure(stage, act, line: str) -> None:
    stage.join(0, train=act)
    stage.join(1)
    stage.open(2)
    outcomes = {outcome.client: outcome for outcome in stage.train("client0", "client1")}
    assert isinstance(outcomes["client1"], ClientResult)
    assert isinstance(outcomes["client0"], ClientFailure)
    assert line in outcomes["client0"].reason
    assert_harmless(outcomes["client0"].reason, *stage.notes)


@pytest.mark.parametrize(
    ("kind", "act", "line"),
    [
        ("evaluate", altered_metrics(accuracy=[2e12, 2e12]), "an accuracy over 2e+12 images in a result about 2"),
        (
            "evaluate_shared",
            altered_metrics(**{"test.loss": [1.0, 1e12]}),
            "2 counts of test, and a loss of 1e+12 images",
        ),
    ],
)
def test_a_lie_in_an_evaluation_is_that_clients_failure(stage, kind, act, line: str) -> None:
    stage.join(0, **{kind: act})
    stage.open(1)
    stage.runtime.submit([Task("client0", 1, kind, SHARED, TaskSettings(lr=0.1, splits=("test", "val")))])
    (outcome,) = stage.runtime.completed()
    assert isinstance(outcome, ClientFailure)
    assert line in outcome.reason


# -- a hostile server --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["finish", "refuse"])
def test_a_servers_farewell_is_cut_and_cleaned(stage, kind: str) -> None:
    script: Script = stage.join(0)
    stage.open(1)
    stage.runtime._sender.say(stage.nodes["client0"], kind, HOSTILE)
    stage.ready()
    assert script.farewell is not None
    assert script.farewell.kind == kind
    assert "�[2J�]0;owned" in script.farewell.text
    assert_harmless(script.farewell.text)


# -- at random ---------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from([HOSTILE, "..", "a/b", ""])
INTEGERS = st.integers(-(2**63), 2**63 - 1)
LISTS = st.lists(INTEGERS, max_size=4) | st.lists(TEXTS, max_size=4) | st.lists(st.floats(), max_size=4)
VALUES = TEXTS | INTEGERS | st.floats() | st.booleans() | st.binary(max_size=9) | LISTS

DESCRIPTION = Description("client0", 0, "id", ("a", "b"), 16, 8, 1, "cpu", "0.1", "1.38", 1.0)
UPDATE = {name: value / 8 for name, value in SHARED.items()}
TASK = Task("client0", 1, "train", SHARED, TaskSettings(lr=0.1))
EXPECTED = Expected(12, ("loss",), shapes_of(SHARED), check_payload=check_update)


def honest_answer() -> RecordDict:
    metrics = {"loss": MeanMetric(3.0, 12), "accuracy": MeanMetric(6.0, 12), "seconds": MeanMetric(1.0, 1)}
    return result_record(ClientResult(1, "train", ClientReport("client0", 12.0, metrics), UPDATE))


def honest_replies() -> list[RecordDict]:
    return [reply(DESCRIPTION), reply(Prepared((3, 1), (0, 0), (1, 0))), reply(Refusal("no")), honest_answer()]


def put_at_random(data: st.DataObject, content: RecordDict) -> None:
    """Some fields of the message's records get other values, or are gone; or there are new ones."""
    for _ in range(data.draw(st.integers(1, 3))):
        record = content[data.draw(st.sampled_from([HEAD, *content.metric_records]))]
        name = data.draw(st.sampled_from([*record, "more", HOSTILE]))
        try:
            record[name] = data.draw(VALUES)
        except (TypeError, ValueError, OverflowError):  # a record of Flower's does not hold it
            record.pop(name, None)


@pytest.mark.fuzz
@given(st.data())
def test_any_reply_of_a_site_is_valid_or_named(data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(honest_replies()))
    put_at_random(data, content)
    try:
        found = read_reply(content)
        answer = result_from(content, TASK, EXPECTED) if found is None else None
    except ProtocolError as error:
        assert_harmless(str(error).replace("\n", " "))
        return
    if isinstance(found, Refusal):
        assert_harmless(found.reason)
    elif found is not None:
        texts = [value for value in vars(found).values() if isinstance(value, str)]
        assert_harmless(*texts, *getattr(found, "class_names", ()))
    else:
        assert answer is not None
        assert 0 < answer.report.weight <= 12
        assert answer.report.metrics["loss"].value >= 0
        assert answer.report.metrics.get("accuracy", answer.report.metrics["loss"]).value >= 0


class Willing:
    """A site that does whatever reaches it, and keeps it."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def describe(self) -> Description:
        return DESCRIPTION

    def prepare(self, setup: Setup) -> Prepared:
        return Prepared((3, 1), (0, 0), (1, 0))

    def run(self, task: Task, setup: Setup) -> ClientFailure:
        self.tasks.append(task)
        return ClientFailure(task.client, task.round, "no time")


@pytest.mark.fuzz
@given(st.data())
def test_any_message_of_a_server_is_done_or_refused(data: st.DataObject) -> None:
    kind = data.draw(
        st.sampled_from(["train", "evaluate", "evaluate_shared", "prepare", "describe", "finish", "refuse"])
    )
    task = replace(TASK, kind=kind)
    whole = kind in ("train", "evaluate", "evaluate_shared")
    content = task_record(task, SETUP, arrays(SHARED)) if whole else RecordDict({HEAD: head(kind, SETUP, text="bye")})
    put_at_random(data, content)
    site = Willing()
    answer = MessageHandler(site).answer(Message(content, 1, flower_type(kind), group_id=data.draw(TEXTS)))
    if isinstance(answer, Goodbye):
        assert_harmless(answer.text)
        return
    assert_harmless(answer.run, answer.what, answer.text)
    said = read_reply(answer.content)
    assert isinstance(said, Description | Prepared | Refusal)
    if isinstance(said, Refusal):
        assert said.reason
