"""FedLens as a Flower app, message by message, without any network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_disk
from tests.photos import CLASSES, photos
from tests.problems import refuses

from fedlens.build.load import load
from fedlens.data.excerpt import excerpt
from fedlens.errors import ConnectionFailed
from fedlens.flower.app import GivenGrid, _Shop, answer, simulated, site_of, write_app
from fedlens.flower.bundle import bundle
from fedlens.flower.messages import HEAD, Description, Prepared, Refusal, Setup, head, query, read_reply

PHOTOGRAPHS = {"client1": 4, "client2": 5}
"""Of each class."""


@pytest.fixture(autouse=True)
def a_new_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for client, each in PHOTOGRAPHS.items():
        photos(Path("data", client), each)


def message(content: RecordDict) -> Message:
    """A query from the server, as a SuperNode hands it to its app."""
    about = Metadata(
        run_id=1,
        message_id="question",
        src_node_id=1,
        dst_node_id=2,
        reply_to_message_id="",
        group_id="run",
        created_at=0.0,
        ttl=60.0,
        message_type="query",
    )
    return make_message(about, content)


def asked(content: RecordDict, node: dict[str, str | int], data: str = ""):
    """What the app replies."""
    run = {"config": "", "overrides": "", "data": data}
    context = Context(run_id=1, node_id=2, node_config=node, state=RecordDict(), run_config=run)
    return read_reply(answer(message(content), context).content)


def setup(*overrides: str) -> Setup:
    """A run that the photographs fit."""
    config = load(None, ("model.name=lenet", *overrides)).model_dump(mode="json")
    return Setup("run", config, CLASSES, 28, 3)


def test_a_supernode_is_the_site_that_its_configuration_names() -> None:
    node = {"data-dir": str(Path("data/client2").absolute()), "partition-id": 1}
    said = asked(query("describe"), node)
    assert isinstance(said, Description)
    assert (said.name, said.partition, said.class_names, said.images) == ("client2", 1, CLASSES, 15)
    ready = asked(query("prepare", setup("data.validation=0", "data.client_test=0")), node)
    assert ready == Prepared((5, 5, 5), (0, 0, 0), (0, 0, 0))
    left = [json.loads(line) for line in Path("state/fedlens/client2/outbox.jsonl").read_text().splitlines()]
    assert [(line["to"], line["what"]) for line in left] == [("node 2", "describe"), ("node 2", "prepare")]


def test_the_rules_of_a_site_yaml_hold() -> None:
    Path("site.yaml").write_text("data_dir: data/client1\nallow:\n  models: [resnet18]\n")
    said = asked(query("prepare", setup()), {"config": "site.yaml", "partition-id": 0})
    assert said == Refusal("this site's allow.models is resnet18, and the run uses lenet")


def test_a_rule_may_stand_in_the_nodes_configuration_and_foreign_keys_are_left_alone() -> None:
    site = site_of({"data-dir": "data/client1", "allow.max_rounds": 3, "another-apps": "key"})
    assert site.allow.max_rounds == 3
    with refuses(("out_of_range", "partition_id")):
        site_of({"data-dir": "data/client1", "partition-id": -1})


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ({}, "--node-config 'data-dir="),
        ({"partition-id": 0}, "--node-config 'data-dir="),
        ({"data-dir": "nowhere"}, "data_dir: nowhere does not exist"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_a_node_that_cannot_work_says_why(node, line, capsys) -> None:
    said = asked(query("describe"), node)
    assert isinstance(said, Refusal) and line in said.reason and "Traceback" not in said.reason
    assert said.reason in capsys.readouterr().out


def test_a_farewell_gets_a_harmless_reply() -> None:
    node = {"data-dir": "data/client1"}
    assert asked(RecordDict({HEAD: head("finish", None, text="all rounds are done")}), node) == Refusal(
        "all rounds are done"
    )
    assert asked(RecordDict({HEAD: head("refuse", None, text="its key is revoked")}), node) == Refusal(
        "its key is revoked"
    )


def test_a_simulated_client_is_the_folder_of_its_number() -> None:
    said = asked(query("describe"), {"partition-id": 1, "num-partitions": 2}, data="data")
    assert isinstance(said, Description) and (said.name, said.images) == ("client2", 15)
    assert simulated(1, "data").state == Path("state/fedlens/simulation/client2").absolute()
    beyond = asked(query("describe"), {"partition-id": 2, "num-partitions": 3}, data="data")
    assert isinstance(beyond, Refusal) and "holds the folders of 2 clients" in beyond.reason


def test_without_data_simulated_clients_share_out_the_sample() -> None:
    sample = excerpt(3, 200, 0)
    for partition in range(3):
        shop = _Shop(simulated(partition, ""), 3)
        own = shop._table
        assert np.array_equal(own.images, sample.images[sample.clients == f"client{partition + 1}"])
        assert shop.describe().images == 200


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's own
def test_the_written_app_is_the_bundle_that_resident_clients_accept() -> None:
    write_app(Path("app"))
    assert hashlib.sha256(build_fab_from_disk(Path("app"))).hexdigest() == bundle().hash_str


def test_a_given_superlink_is_not_started_again() -> None:
    with pytest.raises(ConnectionFailed, match="start it again"):
        GivenGrid(None).renew()
