"""Keys that are set but have no effect, such as `data.path` with `source: sample`.

A key counts as set if its value is not its default: the configuration saved with a run contains every key and must be
usable again. The rules below define which keys are idle, one function per part of the configuration; `config.load`
decides what happens to an idle key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fedlens.config.blocks import (
    ATTACK,
    AUTO,
    CLOCK,
    MODEL,
    OPTIMIZER,
    PERSONALIZATION,
    PRIVACY,
    PYTHON,
    SCHEDULE,
    SCHEME,
    SOURCE,
    field_names,
    find,
    reads_texts,
)
from fedlens.config.schema import Config, PartitionSection, ServerSection
from fedlens.data.sections import ModalitiesSection
from fedlens.models.sections import LoraSection
from fedlens.schedules.base import Asynchronous
from fedlens.training.sections import TransferSection

Use = Literal["run", "server"]
"""The use of a configuration: a simulation, or a server of sites on other machines."""

OWN_DATA, OWN_MODEL = "data=", "model="
"""What a Python program may pass instead of configuring it."""

HandedOver = frozenset[str]


@dataclass(frozen=True)
class Idle:
    """A key without effect. text: the reason and the way out; because: the keys that cause it; other_use: it has an
    effect if the same configuration is used for the other of `Use`."""

    key: str
    text: str
    because: tuple[str, ...] = ()
    other_use: bool = False


def idle_keys(config: Config, use: Use | None = None, given: HandedOver = frozenset()) -> Iterator[Idle]:
    """The keys of `config` that are set and have no effect. All block names in it are known.

    use    None: it may be for either, so keys that have an effect for one of them are not idle
    given  subset of `OWN_DATA` and `OWN_MODEL`: what replaces these sections
    """
    rules = (_data, _model, _training, _algorithm, _evaluation, _stopping, _runtime)
    found = [idle for rule in rules for idle in rule(config)]
    found += [*_of_simulation(config)] if use == "server" else [*_of_server(config)] if use == "run" else []
    found += [*_beside_own_data(config)] if OWN_DATA in given else []
    found += [*_beside_own_model(config)] if OWN_MODEL in given else []
    plain = Config()
    for idle in found:
        if value_at(config, idle.key) != value_at(plain, idle.key):
            yield idle


def value_at(config: Config, key: str) -> Any:
    """The value under a dotted key of the schema."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _data(config: Config) -> Iterator[Idle]:
    source, scheme = config.data.source, config.data.partition.scheme
    if source not in (AUTO, PYTHON) and "path" not in field_names(find(SOURCE, source)):
        text = f"source {source} reads no path; use data.source=auto"
        yield Idle("data.path", text, ("data.source",))
    if scheme != AUTO and find(SCHEME, scheme).factory.keeps_clients:
        text = "scheme natural keeps the data's own clients; use another data.partition.scheme, or leave it out"
        yield Idle("data.partition.clients", text, ("data.partition.scheme",))
        yield Idle("data.partition.seed", text, ("data.partition.scheme",))


def _model(config: Config) -> Iterator[Idle]:
    model = config.model
    if model.weights is not None:
        text = "model.weights takes the place of pretrained weights; use one of the two"
        yield Idle("model.pretrained", text, ("model.weights",))
    if not model.lora.rank:
        for name in LoraSection.model_fields:
            yield Idle(f"model.lora.{name}", "there are no adapters; set model.lora.rank", ("model.lora.rank",))
    if model.name != PYTHON and not reads_texts(model):
        text = f"model {model.name} takes images alone; use model.name=fusion, or leave it out"
        for key in ("federated.missing_modalities", "data.modalities.image_only", "data.modalities.text_only"):
            yield Idle(key, text, ("model.name",))
    if model.freeze == "backbone":
        text = "model.freeze=backbone leaves the head only; freeze less, or leave this out"
        for name in TransferSection.model_fields:
            yield Idle(f"transfer.{name}", text, ("model.freeze",))
        yield Idle("memory.gradient_checkpointing", text, ("model.freeze",))


def _training(config: Config) -> Iterator[Idle]:
    optimizer = config.optimizer
    for name in {"momentum", "weight_decay"}.difference(field_names(find(OPTIMIZER, optimizer.name))):
        text = f"{optimizer.name} has none; use optimizer.name=sgd, or leave it out"
        yield Idle(f"optimizer.{name}", text, ("optimizer.name",))
    if not OPTIMIZER.choose(optimizer).has_state:
        text = f"{optimizer.name} has nothing to keep from step to step; set optimizer.momentum, or leave it out"
        yield Idle("optimizer.keep", text, ("optimizer.momentum", "optimizer.name"))
    users = {"step_rounds": ("step",), "gamma": ("step", "exponential")}
    for name, schedules in users.items():
        if optimizer.schedule not in schedules:
            text = f"schedule {optimizer.schedule} has none; use optimizer.schedule={' or '.join(schedules)}"
            yield Idle(f"optimizer.{name}", text, ("optimizer.schedule",))


def _algorithm(config: Config) -> Iterator[Idle]:
    if config.attack.name == ATTACK.default:
        text = f"nobody attacks; set attack.name, such as attack.name={_attack()}"
        yield Idle("attack.fraction", text, ("attack.name",))
    if not config.privacy.secure_aggregation:
        text = "updates are not aggregated securely; set privacy.secure_aggregation=true, or leave it out"
        for name in ("threshold", "neighbours", "bits", "largest"):
            yield Idle(f"privacy.secure_{name}", text, ("privacy.secure_aggregation",))
    if config.privacy.secure_aggregation and find(PRIVACY, config.privacy.mode).factory.masks:
        text = f"privacy.mode={config.privacy.mode} clips updates, so no coordinate is above privacy.clip; leave it out"
        yield Idle("privacy.secure_largest", text, ("privacy.mode",))
    schedule = SCHEDULE.choose(config.schedule)
    if isinstance(schedule, Asynchronous) and schedule.concurrency is not None:
        text = "schedule.concurrency says how many clients work at a time; use one of the two"
        yield Idle("federated.fraction_fit", text, ("schedule.concurrency", "schedule.name"))


def _attack() -> str:
    return next(name for name in ATTACK.registry.names() if name != ATTACK.default)


def _evaluation(config: Config) -> Iterator[Idle]:
    if config.federated.evaluate_clients_every and not config.data.client_test:
        text = "data.client_test=0 leaves the clients no test images; set data.client_test"
        yield Idle("federated.evaluate_clients_every", text, ("data.client_test",))
    if config.federated.cross_site and not config.data.client_test:
        text = "data.client_test=0 leaves the clients no test images to try models on; set data.client_test"
        yield Idle("federated.cross_site", text, ("data.client_test",))
    if config.tracking.leave_one_out and not config.data.validation:
        text = "data.validation=0 leaves no images to try models on; set data.validation"
        yield Idle("tracking.leave_one_out", text, ("data.validation",))
    if config.tracking.leave_one_out and not find(PERSONALIZATION, config.personalization.name).factory.shares:
        text = f"personalization {config.personalization.name} shares nothing that updates could change; leave it out"
        yield Idle("tracking.leave_one_out", text, ("personalization.name",))
    if not config.federated.evaluate_every:
        text = "with federated.evaluate_every=0 nothing is evaluated before the end; set federated.evaluate_every"
        for name in ("target_accuracy", "patience", "min_delta"):
            yield Idle(f"stopping.{name}", text, ("federated.evaluate_every",))


def _stopping(config: Config) -> Iterator[Idle]:
    if config.stopping.patience is None:
        text = "it counts for stopping.patience alone; set that, or leave it out"
        yield Idle("stopping.min_delta", text, ("stopping.patience",))


def _runtime(config: Config) -> Iterator[Idle]:
    name = config.runtime.name
    if name != "ray":
        text = f"runtime {name} connects to nothing; use runtime.name=ray, or leave it out"
        yield Idle("runtime.address", text, ("runtime.name",))
    if name == "in_process":
        text = "runtime in_process has no worker processes; use runtime.name=local, or leave it out"
        yield Idle("runtime.workers", text, ("runtime.name",))
        yield Idle("runtime.threads_per_worker", text, ("runtime.name",))
    if name == "ray":
        text = "what fits on a Ray cluster is not measured; use runtime.name=local, or leave it out"
        yield Idle("memory.auto", text, ("runtime.name",))
    if config.runtime.workers == "auto":
        if name == "ray":
            text = "workers of a Ray cluster are not measured; name their number, or leave it out"
            yield Idle("runtime.workers", text, ("runtime.name",))
        text = "runtime.workers=auto finds it, too; name the number of workers, or leave it out"
        yield Idle("runtime.threads_per_worker", text, ("runtime.workers",))


def _of_server(config: Config) -> Iterator[Idle]:
    """Keys that only have an effect if the clients are on other machines."""
    text = "is for `fedlens server`; a simulation has no use for it, so leave it out"
    for name in ServerSection.model_fields:
        yield Idle(f"server.{name}", text, other_use=True)
    yield Idle("federated.round_deadline", text, other_use=True)
    asynchronous = isinstance(SCHEDULE.choose(config.schedule), Asynchronous)  # it raises its own error
    if not asynchronous and not CLOCK.choose(config.clock).virtual:
        late = "without a clock no simulated client is late; set clock.name, or leave it out"
        yield Idle("federated.over_selection", late, ("clock.name",), other_use=True)


def _of_simulation(config: Config) -> Iterator[Idle]:
    """Keys that only have an effect if the clients are simulated."""
    text = "is for simulations (`fedlens run`); sites decide it themselves, so leave it out"
    for key in ("name", "workers", "address", "threads_per_worker", "vectorize", "graph"):
        yield Idle(f"runtime.{key}", text, other_use=True)
    for key in PartitionSection.model_fields:
        yield Idle(f"data.partition.{key}", text, other_use=True)
    for key in ModalitiesSection.model_fields:
        yield Idle(f"data.modalities.{key}", text, other_use=True)
    yield Idle("data.held_out", text, other_use=True)
    yield Idle("federated.edges", text, other_use=True)
    yield Idle("attack.fraction", text, other_use=True)
    if config.federated.missing_modalities == "drop_clients":
        yield Idle("federated.missing_modalities", text, other_use=True)
    text = "measures on this machine what fits, and sites train on theirs; set memory.micro_batch, or leave it out"
    yield Idle("memory.auto", text, other_use=True)
    if config.server.certs is not None:
        alone = "server.certs lets only registered clients in; use one of the two"
        yield Idle("server.insecure", alone, ("server.certs",))
    if config.data.path is None and config.data.source == AUTO:
        none = "the server has no images of its own; name them by data.path, or leave it out"
        for key in ("test", "on_bad_image", "max_pixels"):
            yield Idle(f"data.{key}", none, other_use=True)


def _beside_own_data(config: Config) -> Iterator[Idle]:
    text = f"{OWN_DATA} gives the images themselves; leave it out"
    if config.data.source != PYTHON:
        yield Idle("data.source", text, (OWN_DATA,))
    for name in ("path", "image_size", "on_bad_image", "max_pixels"):
        yield Idle(f"data.{name}", text, (OWN_DATA,))
    for name in ModalitiesSection.model_fields:
        yield Idle(f"data.modalities.{name}", f"{OWN_DATA} gives no texts; leave it out", (OWN_DATA,))
    yield Idle("data.held_out", text, (OWN_DATA,))


def _beside_own_model(config: Config) -> Iterator[Idle]:
    text = f"{OWN_MODEL} gives the model itself; leave it out"
    if config.model.name != PYTHON:
        yield Idle(f"model.{MODEL.key}", text, (OWN_MODEL,))
    for name in ("pretrained", "num_classes", "weights", "freeze", "norm", "lora.rank"):
        yield Idle(f"model.{name}", text, (OWN_MODEL,))
