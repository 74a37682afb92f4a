"""What a server and a site say to each other: it comes back as it went, or is refused with a line that says why."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from flwr.app import ConfigRecord, RecordDict

from fedlens.errors import ProtocolError
from fedlens.flower.messages import (
    HEAD,
    PROTOCOL,
    Description,
    Prepared,
    Refusal,
    Setup,
    Visit,
    fingerprint,
    inquiry,
    query,
    read_head,
    read_reply,
    reply,
)

SETUP = Setup("fedavg-cnn-1", {"model": {"name": "cnn"}, "seed": 3}, ("cat", "hünd"), 28, 3)
DESCRIPTION = Description(
    name="client1",
    partition=0,
    identity="5f3a",
    class_names=("cat", "hünd"),
    images=200,
    native_size=0,
    channels=3,
    device="cpu",
    fedlens="0.1",
    flwr="1.38",
    clock=1.5,
)
PREPARED = Prepared((3, 0, 4), (0, 0, 1), (0, 0, 0))
REPLIES = [
    DESCRIPTION,
    replace(DESCRIPTION, clock=3, class_names=()),
    PREPARED,
    Refusal("no room"),
    Refusal("out of memory", final=False),
    Visit(),
]


@pytest.mark.parametrize("content", REPLIES, ids=lambda content: type(content).__name__)
def test_a_reply_comes_back(content) -> None:
    assert read_reply(reply(content)) == content


def test_a_setup_comes_back() -> None:
    again = Setup.from_json(SETUP.to_json())
    assert again == SETUP
    assert fingerprint(again) == fingerprint(SETUP) != fingerprint(replace(SETUP, image_size=29))


@pytest.mark.parametrize("content", [query("prepare", SETUP), inquiry("", []), inquiry("client1", [0, 2])])
def test_a_message_has_a_head(content) -> None:
    head = read_head(content)
    assert head["protocol"] == PROTOCOL
    assert head["kind"] in ("prepare", "describe")
    assert read_reply(content) is None


def without_version() -> RecordDict:
    content = reply(DESCRIPTION)
    del content[HEAD]["protocol"]
    return content


def of_version(spoken) -> RecordDict:
    content = reply(DESCRIPTION)
    content[HEAD]["protocol"] = spoken
    return content


@pytest.mark.parametrize(
    ("content", "spoken"),
    [
        (of_version(PROTOCOL + 1), str(PROTOCOL + 1)),
        (of_version("1"), "'1'"),
        (of_version([1]), r"\[1\]"),
        (without_version(), "None"),
    ],
)
def test_another_version_is_refused(content, spoken: str) -> None:
    with pytest.raises(
        ProtocolError, match=rf"version {spoken} of FedLens' protocol, this one {PROTOCOL}: install the same"
    ):
        read_reply(content)


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({"config": ConfigRecord({"protocol": PROTOCOL})})])
def test_a_message_of_somebody_elses(content) -> None:
    with pytest.raises(ProtocolError, match="a message that is not FedLens'"):
        read_reply(content)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (content, field)
        for content in (DESCRIPTION, Prepared((1,), (0,), (0,)), Refusal("no"))
        for field in asdict(content)
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_missing_field_is_named(content, field: str) -> None:
    record = reply(content)
    del record[HEAD][field]
    if field in ("final", "cross_site", "unlabelled"):  # have defaults: for good, not allowed, none
        assert read_reply(record) == content
        return
    with pytest.raises(
        ProtocolError, match=rf"^a {type(content).__name__} that cannot be read: {field}: Field required"
    ):
        read_reply(record)


@pytest.mark.parametrize(
    ("content", "field", "value", "line"),
    [
        (DESCRIPTION, "name", 5, "name: Input should be a valid string"),
        (DESCRIPTION, "name", "", "name: String should have at least 1 character"),
        (DESCRIPTION, "name", "x" * 101, "name: String should have at most 100 characters"),
        (DESCRIPTION, "name", "../../pwned", "name: String should match"),
        (DESCRIPTION, "name", "a\x1b[2J", "name: String should match"),
        (DESCRIPTION, "identity", "", "identity: String should have at least 1 character"),
        (DESCRIPTION, "identity", "x\x07", "identity: Value error, it has characters that cannot be shown: x�"),
        (
            DESCRIPTION,
            "class_names",
            ["cat\x1b[2J"],
            r"class_names\.0: Value error, it has .* cannot be shown: cat�\[2J",
        ),
        (DESCRIPTION, "class_names", ["x" * 201], r"class_names\.0: String should have at most 200 characters"),
        (DESCRIPTION, "images", 46 * 10**18 // 5, "images: Input should be less than 9007199254740992"),
        (DESCRIPTION, "channels", 2, "channels: Input should be 1 or 3"),
        (DESCRIPTION, "clock", -1.0, "clock: Input should be greater than or equal to 0"),
        (DESCRIPTION, "clock", 1e300, "clock: Input should be less than"),
        (DESCRIPTION, "partition", "0", "partition: Input should be a valid integer"),
        (DESCRIPTION, "partition", -1, "partition: Input should be greater than or equal to 0"),
        (DESCRIPTION, "partition", True, "partition: Input should be a valid integer"),
        (DESCRIPTION, "class_names", "cat", "class_names: Input should be a valid tuple"),
        (DESCRIPTION, "class_names", [1, 2], r"class_names\.0: Input should be a valid string"),
        (DESCRIPTION, "images", 2.5, "images: Input should be a valid integer"),
        (DESCRIPTION, "images", -2, "images: Input should be greater than or equal to 0"),
        (DESCRIPTION, "native_size", -2, "native_size: Input should be greater than"),
        (DESCRIPTION, "clock", float("nan"), "clock: Input should be a finite number"),
        (DESCRIPTION, "clock", "now", "clock: Input should be a valid number"),
        (DESCRIPTION, "more", 1, "more: Unexpected keyword argument"),
        (PREPARED, "train", [1, -1], r"train\.1: Input should be greater than or equal to 0"),
        (PREPARED, "val", ["1"], r"val\.0: Input should be a valid integer"),
        (PREPARED, "test", 3, "test: Input should be a valid tuple"),
        (Refusal("no"), "reason", b"no", "reason: Input should be a valid string"),
    ],
)
def test_a_field_that_cannot_be(content, field: str, value, line: str) -> None:
    record = reply(content)
    record[HEAD][field] = value
    with pytest.raises(ProtocolError, match=rf"^a {type(content).__name__} that cannot be read: {line}"):
        read_reply(record)


def told(**changes) -> str:
    return json.dumps({**json.loads(SETUP.to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "Invalid JSON"),
        ("[]", "Input should be an object"),
        (json.dumps({}), "run: Field required"),
        (told(class_names=3), "class_names: Input should be a valid array"),
        (told(class_names=[1]), r"class_names\.0: Input should be a valid string"),
        (told(run="../elsewhere"), "run: String should match"),
        (told(run="a/b"), "run: String should match"),
        (told(run=".."), "run: String should match"),
        (told(run=""), "run: String should match"),
        (told(run="x" * 201), "run: String should have at most"),
        (told(run="run\x1b[2J"), "run: Value error, it has characters that cannot be shown: run�"),
        (told(class_names=["\u202egpj"]), r"class_names\.0: Value error, it has characters that cannot be shown: �gpj"),
        (told(config=[]), "config: Input should be an object"),
        (told(image_size=0), "image_size: Input should be greater"),
        (told(image_size=5000), "image_size: Input should be less"),
        (told(channels=2), "channels: Input should be 1 or 3"),
        (told(more=2), "more: Unexpected keyword argument"),
    ],
)
def test_a_setup_that_cannot_be_read(text: str, line: str) -> None:
    with pytest.raises(ProtocolError, match=rf"the server's description of the run cannot be read: .*{line}"):
        Setup.from_json(text)


HOSTILE = "gone\x1b[2J\x9b31m\u202e\n" + "x" * 5_000_000


@pytest.mark.parametrize("field", ["device", "fedlens", "flwr"])
def test_what_is_only_shown_is_cleaned_and_cut(field: str) -> None:
    record = reply(DESCRIPTION)
    record[HEAD][field] = HOSTILE
    shown = asdict(read_reply(record))[field]
    assert len(shown) == 50
    assert shown.startswith("gone�[2J�31m� xxx")


def test_a_refusal_is_one_short_line_at_both_ends() -> None:
    assert len(Refusal(HOSTILE).reason) == 1000
    record = reply(Refusal(""))
    record[HEAD]["reason"] = HOSTILE
    assert read_reply(record) == Refusal(HOSTILE)
