"""Every key that is given has an effect, or is refused.

Three looks at it: which keys a run reads (what it does not read has to be refused), what becomes of a key whose partner
is missing or there, and whether every parameter of every block reaches the block.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.problems import refuses, refuses_with

from fedlens import api
from fedlens.build.builders import build_algorithm, build_plan, local_settings
from fedlens.build.load import load, load_saved
from fedlens.config import schema
from fedlens.config.blocks import FAMILIES, SCHEDULE, Family, field_names
from fedlens.config.idle import Use, idle_keys
from fedlens.config.keys import properties, schema_keys, sections
from fedlens.config.load import dump
from fedlens.config.schema import BlockSection, Config, Section
from fedlens.core.registry import Entry
from fedlens.federation.rounds import buffered
from fedlens.session.run import UserObjects

QUICK = ("model.name=lenet", "federated.num_rounds=1", "federated.batch_size=64", "runtime.name=in_process")


@contextmanager
def reading() -> Iterator[set[tuple[type, str]]]:
    """The (section, key) pairs that are read inside."""
    read: set[tuple[type, str]] = set()

    def noted(self: BaseModel, name: str) -> Any:
        if name in type(self).model_fields:
            read.add((type(self), name))
        return object.__getattribute__(self, name)

    with pytest.MonkeyPatch.context() as patch:
        for kind in (Section, BlockSection):
            patch.setattr(kind, "__getattribute__", noted, raising=False)
        yield read


def values() -> list[str]:
    """The keys that hold values, not sections."""
    names = dict(sections())
    return [key for key in schema_keys() if key not in names]


def unread(read: set[tuple[type, str]]) -> set[str]:
    models = dict(sections())
    split = {key: key.rpartition(".") for key in values()}
    return {key for key, (section, _, name) in split.items() if (models[section], name) not in read}


def refused(key: str, text: str, *around: str, use: Use | None = "run") -> str:
    with refuses(("idle_key", key)) as caught:
        load(None, [f"{key}={text}", *around], use=use)
    return str(caught.value)


@pytest.mark.parametrize("more", [(), ("attack.name=label_flip", "data.partition.scheme=iid", "data.client_test=0.2")])
def test_what_a_simulation_does_not_read_is_refused(tmp_path: Path, more: Sequence[str]) -> None:
    config = load(None, [*QUICK, f"tracking.dir={tmp_path}", "tracking.tensorboard=false", *more])
    with reading() as read:  # after the configuration was checked: the rules read keys themselves
        api._in_new_folder(config, lambda folder: api._execute(config, folder, UserObjects(), False, ()))
    idle = {one.key for one in _all_idle(config, "run")}
    assert unread(read) <= idle
    assert len(read) > 60  # the look works


def _all_idle(config: Config, use: Use) -> Iterator[Any]:
    """The idle keys of `config`, were they given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedlens.config.idle.value_at", lambda config, _key: id(config))  # no value is its default
        yield from idle_keys(config, use)


PARTNERS = [
    ("data.path", "PHOTOS", ("data.source=sample",), ("data.source=imagefolder",)),
    ("data.partition.clients", "4", ("data.partition.scheme=natural",), ("data.partition.scheme=iid",)),
    ("data.partition.seed", "4", ("data.partition.scheme=natural",), ("data.partition.scheme=iid",)),
    ("model.pretrained", "true", ("model.weights=a.pth",), ()),
    ("model.lora.alpha", "3", (), ("model.lora.rank=2",)),
    ("model.lora.dropout", "0.5", (), ("model.lora.rank=2",)),
    ("model.lora.targets", "[qkv]", (), ("model.lora.rank=2",)),
    ("transfer.layer_decay", "0.5", ("model.freeze=backbone",), ("model.freeze=1",)),
    ("transfer.unfreeze_every", "2", ("model.freeze=backbone",), ()),
    ("transfer.probe_rounds", "2", ("model.freeze=backbone",), ()),
    ("memory.gradient_checkpointing", "true", ("model.freeze=backbone",), ()),
    ("optimizer.momentum", "0.5", ("optimizer.name=adamw",), ("optimizer.name=sgd",)),
    ("optimizer.keep", "true", ("optimizer.momentum=0",), ("optimizer.name=adamw",)),
    ("optimizer.step_rounds", "3", ("optimizer.schedule=exponential",), ("optimizer.schedule=step",)),
    ("optimizer.gamma", "0.5", ("optimizer.schedule=cosine",), ("optimizer.schedule=exponential",)),
    ("attack.fraction", "0.5", (), ("attack.name=label_flip",)),
    ("federated.fraction_fit", "0.5", ("schedule.name=fedbuff", "schedule.concurrency=12"), ("schedule.name=fedbuff",)),
    ("federated.evaluate_clients_every", "2", ("data.client_test=0",), ()),
    ("federated.cross_site", "true", ("data.client_test=0",), ()),
    ("tracking.leave_one_out", "2", ("data.validation=0",), ()),
    ("tracking.leave_one_out", "2", ("personalization.name=local",), ()),
    ("stopping.min_delta", "0.1", (), ("stopping.patience=3",)),
    ("stopping.patience", "2", ("federated.evaluate_every=0",), ()),
    ("stopping.target_accuracy", "0.5", ("federated.evaluate_every=0",), ()),
    ("runtime.address", "auto", (), ("runtime.name=ray",)),
    ("runtime.workers", "3", ("runtime.name=in_process",), ("runtime.name=local",)),
    ("runtime.threads_per_worker", "3", ("runtime.name=in_process",), ("runtime.name=ray",)),
    ("runtime.workers", "auto", ("runtime.name=ray",), ("runtime.name=local",)),
    ("runtime.threads_per_worker", "3", ("runtime.workers=auto",), ("runtime.workers=3",)),
    ("federated.over_selection", "0.5", (), ("clock.name=lognormal",)),
    ("memory.auto", "true", ("runtime.name=ray",), ("runtime.name=in_process",)),
    ("data.modalities.image_only", "0.3", (), ("model.name=fusion",)),
    ("data.modalities.text_only", "0.3", (), ("model.name=fusion",)),
    ("federated.missing_modalities", "average", (), ("model.name=fusion",)),
]


@pytest.mark.parametrize(("key", "text", "without", "together"), PARTNERS, ids=[row[0] for row in PARTNERS])
def test_a_key_needs_its_partner(key: str, text: str, without: tuple[str, ...], together: tuple[str, ...]) -> None:
    line = refused(key, text, *without)
    assert any(word in line for word in ("use ", "set ", "leave ")), line  # the way out
    load(None, [f"{key}={text}", *together], use="run")


PLAIN_ONLY = {"optimizer.keep", "optimizer.momentum", "optimizer.step_rounds", "optimizer.gamma"}


@pytest.mark.parametrize(("key", "text", "_", "together"), [row for row in PARTNERS if row[0] in PLAIN_ONLY])
def test_with_its_partner_it_changes_what_is_built(key: str, text: str, _: Any, together: tuple[str, ...]) -> None:
    def built(*overrides: str) -> tuple[Any, ...]:
        config = load(None, [*overrides, *together])
        plan = build_plan(config)
        return local_settings(config), build_algorithm(config), [plan.lr(number) for number in range(1, 21)]

    assert built(f"{key}={text}") != built()


@pytest.mark.parametrize("key", [f"server.{name}" for name in schema.ServerSection.model_fields])
def test_a_server_s_keys_in_a_simulation(key: str) -> None:
    texts = {"server.address": "h:1", "server.certs": "c", "server.max_weight_share": "0.3"}
    text = texts.get(key) or str(another(properties(schema.ServerSection)[key.partition(".")[2]])).lower()
    assert "is for `fedlens server`" in refused(key, text)
    load(None, [f"{key}={text}"], use="server")


@pytest.mark.parametrize(
    ("key", "text", "around"),
    [
        ("federated.round_deadline", "3", ()),
        ("runtime.name", "in_process", ()),
        ("runtime.workers", "3", ()),
        ("runtime.graph", "true", ()),
        ("data.partition.scheme", "iid", ()),
        ("data.partition.clients", "3", ()),
        ("data.modalities.image_only", "0.3", ("model.name=fusion",)),
        ("data.modalities.text_only", "0.3", ("model.name=fusion",)),
        ("federated.missing_modalities", "drop_clients", ("model.name=fusion",)),
        ("data.test", "0.3", ()),
        ("data.on_bad_image", "fail", ()),
        ("server.insecure", "true", ("server.certs=c",)),
    ],
)
def test_a_simulation_s_keys_at_a_server(key: str, text: str, around: tuple[str, ...]) -> None:
    uses: dict[Use, tuple[str, ...]] = {"server": around}
    if key == "federated.round_deadline":
        uses = {"run": around}
    for use, overrides in uses.items():
        refused(key, text, *overrides, use=use)
    load(None, [f"{key}={text}", *around], use=None)  # it may be for either


def test_one_file_serves_both_commands(tmp_path: Path) -> None:
    """What counts for the other command is left out and said; on the command line it is a mistake (above)."""
    file, said = tmp_path / "config.yaml", []
    file.write_text(
        "server: {address: 'h:1', rejoin_seconds: 9}\nfederated: {round_deadline: 30, num_rounds: 4}\n"
        "data: {partition: {scheme: iid, clients: 8}, test: 0.3}\nruntime: {workers: 3}\n"
    )
    run = load(file, use="run", note=said.append)
    server = load(file, use="server", note=said.append)
    assert said == [
        "this command does not use server.address, server.rejoin_seconds, federated.round_deadline: left out",
        "this command does not use runtime.workers, data.partition.scheme, data.partition.clients, data.test: left out",
    ]
    plain = Config()
    assert (run.server, run.federated.round_deadline) == (plain.server, plain.federated.round_deadline)
    assert (run.runtime.workers, run.data.partition.clients, run.data.test) == (3, 8, 0.3)
    assert (server.server.address, server.federated.round_deadline) == ("h:1", 30)
    assert (server.runtime.workers, server.data.partition) == (plain.runtime.workers, plain.data.partition)
    with refuses(("idle_key", "server.address")):
        load(file, ["server.address=h:1"], use="run")


def test_a_later_layer_that_makes_a_key_idle_leaves_it_out(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "data: {source: imagefolder, path: PHOTOS, partition: {scheme: iid, clients: 8}}\n"
        "optimizer: {momentum: 0.5, schedule: step, step_rounds: 3}\nattack: {name: alie, fraction: 0.3}\n"
    )
    over = ["data.source=sample", "data.partition.scheme=natural", "optimizer.name=adamw", "attack.name=none"]
    config = load(file, [*over, "optimizer.schedule=constant"], use="run")
    assert (config.data.path, config.data.partition.clients) == (None, None)
    assert (config.optimizer.momentum, config.optimizer.step_rounds, config.attack.fraction) == (0.9, 10, 0.2)


def test_a_path_over_a_file_s_source_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("data:\n  source: sample\n")
    with refuses_with("idle_key", "data.path = '/photos': source sample reads no path; use data.source=auto (comm"):
        load(file, ["data.path=/photos"], use="run")
    assert str(load(file, ["data.path=/photos", "data.source=auto"], use="run").data.path) == "/photos"


def test_a_saved_configuration_can_be_used_again(tmp_path: Path) -> None:
    """It holds every key. One of an older FedLens may hold keys without effect, which its run did not notice."""
    file = tmp_path / "config.yaml"
    file.write_text(dump(load()))
    assert load(file, use="run") == load()
    file.write_text(dump(load()).replace("fraction: 0.2\n", "fraction: 0.3\n"))
    assert load_saved(file, ["seed=1"]).attack.fraction == 0.2
    with refuses_with("idle_key", "attack.fraction = 0.3: nobody attacks"):
        load(file, use="run")
    with refuses_with("idle_key", "attack.fraction = 0.4: nobody attacks"):
        load_saved(file, ["attack.fraction=0.4"])


def every_parameter() -> list[Any]:
    rows = []
    for family in FAMILIES.values():
        for entry in family.registry.entries():
            names = [name for name in field_names(entry) if name not in family.own]
            rows += [pytest.param(family, entry, name, id=f"{family.section}.{entry.name}.{name}") for name in names]
    return rows


@pytest.mark.parametrize(("family", "entry", "name"), every_parameter())
def test_every_parameter_reaches_its_block_and_is_used_there(family: Family[Any], entry: Entry[Any], name: str) -> None:
    node = entry.properties[name]
    value = another(node)
    needed = {key: another(spec) for key, spec in entry.properties.items() if "default" not in spec}
    block = entry.build({**needed, name: value})
    assert getattr(block, name) != node.get("default", ...)
    modules = {inspect.getmodule(kind) for kind in entry.factory.__mro__ if kind.__module__.startswith("fedlens.")}
    modules |= {buffered} if family is SCHEDULE else set()
    text = "".join(inspect.getsource(module) for module in modules if module)
    assert f".{name}" in text


def another(node: dict[str, Any]) -> Any:
    """A value that the JSON schema allows, other than its default."""
    default = node.get("default")
    for option in node.get("anyOf", [node]):
        for value in candidates(option):
            if value != default:
                return value
    raise AssertionError(f"no value for {node}")


def candidates(node: dict[str, Any]) -> Iterator[Any]:
    yield from node.get("enum", [])
    low, high = node.get("minimum", node.get("exclusiveMinimum", 0)), node.get("maximum", node.get("exclusiveMaximum"))
    kind = node.get("type")
    if kind == "integer":
        step = node.get("multipleOf", 1)
        yield from (low + step, low + 2 * step)
    elif kind == "number":
        middle = low + 1 if high is None else (low + high) / 2
        yield from (middle, middle * 0.75)
    elif kind == "boolean":
        yield from (True, False)
    elif kind == "string":
        yield "other"
    elif kind == "array":
        yield [next(candidates(node.get("items", {"type": "string"})))]
    elif kind == "object":
        yield {next(candidates(node["propertyNames"])): next(candidates(node["additionalProperties"]))}
