"""A federation between machines, from both ends: `serve` is a server's run, `join` a site's part in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from fedlens.aggregation.norms import l2_norm
from fedlens.config import problems
from fedlens.config.address import EVERY_ADDRESS, LOOPBACK, as_target, joined, parted
from fedlens.config.blocks import AUTO, CLOCK
from fedlens.config.builders import build_data, build_plan, natural_size
from fedlens.config.experiment import Experiment, build_experiment
from fedlens.config.schema import AttackSection, Config
from fedlens.config.site import SiteConfig
from fedlens.data.types import DataReport, FederatedData
from fedlens.errors import ConfigError
from fedlens.federation.records import Tracker
from fedlens.federation.survey import Survey
from fedlens.federation.types import ClientInfo, Split, State, Task
from fedlens.files import write_json
from fedlens.limits import Side
from fedlens.runtimes.base import Runtime
from fedlens.runtimes.flower.bundle import bundle
from fedlens.runtimes.flower.certificates import ClientCredentials, ServerCredentials
from fedlens.runtimes.flower.client import Place, ResidentClient, Terms
from fedlens.runtimes.flower.heap import one_heap
from fedlens.runtimes.flower.messages import Description, Setup
from fedlens.runtimes.flower.own_superlink import OwnSuperLink
from fedlens.runtimes.flower.roster import Bounds
from fedlens.runtimes.flower.runtime import Expect, FlowerRuntime
from fedlens.runtimes.flower.screening import Expected, shapes_of
from fedlens.runtimes.flower.superlink import SuperLink
from fedlens.runtimes.flower.worker import Watcher
from fedlens.session import Scoring, check_rule, conduct
from fedlens.site import TOLD, alone, site_maker
from fedlens.strategies.base import LocalContext, Strategy
from fedlens.tracking.observer import Observer
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.saved import read_saved
from fedlens.tracking.stopwatch import Stopwatch
from fedlens.training.algorithm import Algorithm
from fedlens.training.device import enough_memory
from fedlens.training.flat import FlatModel

NO_DEADLINE = 3600.0
"""Seconds of a round where `federated.round_deadline` says nothing: a site that hangs must not hang the federation."""


@enough_memory()
def serve(config: Config, folder: RunDir, observer: Observer, trackers: Sequence[Tracker]) -> torch.nn.Module:
    """A server's whole run: the SuperLink, the sites, the rounds; gives the final model.

    Raises:
        FedLensError: the folder keeps the last whole checkpoint; `serve_on` continues.
    """
    watch = Stopwatch()
    one_heap()
    check_serving(config)
    check_weights(config)
    host, port = bind_address(config)
    credentials = ServerCredentials.load(config.server.certs) if config.server.certs else None
    if config.server.insecure:
        observer.note("--insecure: anybody who reaches this port can read the model and send updates")
    superlink = SuperLink(host, port, folder.superlink, credentials, database=config.server.database)
    link = OwnSuperLink(superlink, config.server.certs)
    try:
        observer.note(
            f"listening on {joined(host, port)}{' with TLS' if credentials else ''}; clients join with: {hint(config)}"
        )
        runtime = FlowerRuntime(
            link,
            folder.name,
            deadline=config.federated.round_deadline or NO_DEADLINE,
            rejoin=config.server.rejoin_seconds,
            bounds=bounds(config),
            note=observer.note,
        )
        return conduct_sites(config, folder, runtime, observer, trackers, watch)
    finally:
        link.close()


def check_serving(config: Config) -> None:
    """Look for what cannot be done with real sites, before any is waited for.

    Raises:
        ConfigError: an attack, a virtual clock, or a rule that the smallest cohort is too small for.
    """
    check_clock(config)
    if config.attack.name != AttackSection().name:
        text = "attacks are for simulations (`fedlens run`); real sites are not made to lie; use attack.name=none"
        raise ConfigError(problems.line("attack.name", text, config.attack.name))
    check_rule(config, config.federated.min_fit_clients)


def conduct_sites(
    config: Config,
    folder: RunDir,
    runtime: FlowerRuntime,
    observer: Observer,
    trackers: Sequence[Tracker],
    watch: Stopwatch,
) -> torch.nn.Module:
    """The run itself, over sites that `runtime` reaches."""
    watch.part("waiting for clients")
    data = own_data(config, folder, runtime, observer)
    watch.part("start")
    progress = watch.timed(observer.progress)
    experiment = build_experiment(config, folder.path, progress, model=None, data=data)
    outputs = config.model.num_classes or len(data.class_names)
    at_home = HOME_METRICS + (SHARED_METRICS if experiment.trainer.shows_shared else ())
    algorithm = experiment.algorithm
    work = Work.of(config, algorithm)
    expect = expectation(experiment.resident, experiment.shared, algorithm.strategy, outputs, at_home, work)
    runtime.open(setup_of(experiment, folder.name), expect)
    watch.part("waiting for clients")
    runtime.clients(config.federated.min_fit_clients)
    watch.part("start")
    scoring = partial(scoring_of, experiment)
    module = conduct(experiment, folder, lambda: runtime, scoring, observer, trackers, watch)
    runtime.finish(f"all its rounds are done ({config.federated.num_rounds})")
    return module


def scoring_of(experiment: Experiment, runtime: Runtime) -> Scoring:
    """The server's own test images where it has some, else those of the sites; validation is the sites'."""
    own_test = experiment.evaluator(experiment.data.test)
    lr = build_plan(experiment.config).lr
    survey = Survey(runtime, ("val",) if own_test else ("test", "val"), lr)
    return Scoring(own_test or partial(survey, "test"), partial(survey, "val"))


def join(site: SiteConfig, watcher: Watcher) -> None:
    """A site's part: join, and do what is asked until the run is over.

    Raises:
        FedLensError: the server cannot be used, or the site cannot work.
    """
    place = where(site)
    terms = Terms(site.allow.max_message_mb * 1_000_000, bundle().hash_str, site.stay)
    with alone(site):
        watcher.note(f"{site.client}: images in {site.data_dir}, state in {site.state}")
        ResidentClient(place, terms, site_maker(site), site.state, watcher).run()


def bounds(config: Config) -> Bounds:
    """What sites may claim."""
    return Bounds(config.server.max_examples, config.server.max_classes)


def check_clock(config: Config) -> None:
    """Real clients have no virtual clock.

    Raises:
        ConfigError: one is configured.
    """
    if CLOCK.choose(config.clock).virtual:
        raise ConfigError(
            f"clock.name = {config.clock.name!r}: sites take the time that they take; a clock is for simulation "
            "(`fedlens run`), so leave it out"
        )


def bind_address(config: Config) -> tuple[str, int]:
    """Where to listen: this machine only, unless there are certificates or --insecure was said.

    Raises:
        ConfigError: the address is none, or open to others without either.
    """
    host, port = parted(config.server.address, "server.address")
    if config.server.certs is not None or config.server.insecure or host in LOOPBACK:
        return host, port
    if host in EVERY_ADDRESS:
        return "127.0.0.1", port
    raise ConfigError(
        f"server.address = {config.server.address!r}: other machines need certificates (`fedlens certs create --hosts "
        f"{host} --clients 2 --out ./certs`, then --certs ./certs), or say --insecure"
    )


def check_weights(config: Config) -> None:
    """Raises ConfigError where the sites would freeze other weights than the server: what is frozen never travels, and
    neither does a file."""
    model = config.model
    if model.weights is not None and (model.freeze != "none" or model.lora.rank):
        what = "model.lora" if model.lora.rank else f"model.freeze = {model.freeze!r}"
        raise ConfigError(
            f"model.weights = {str(model.weights)!r}: with {what} every site would need these weights, and they do not "
            "travel; use model.pretrained=true, or train the whole model"
        )


def hint(config: Config) -> str:
    """The command that a site would give."""
    host, port = parted(config.server.address, "server.address")
    address = joined("127.0.0.1" if host in EVERY_ADDRESS and not config.server.certs else host, port)
    safe = " --certs ./client1" if config.server.certs else ""
    return f"fedlens client --data_dir FOLDER --partition_id 0 --server_address {address}{safe}"


def where(site: SiteConfig) -> Place:
    """The server, and how to be let in.

    Raises:
        ConfigError: another machine without certificates and without --insecure.
    """
    host, port = parted(site.server_address, "server_address")
    host = as_target(host)
    address = joined(host, port)
    if site.certs is not None:
        held = ClientCredentials.load(site.certs)
        return Place(address, held.root_certificates, held.keys)
    if host not in LOOPBACK and not site.insecure:
        raise ConfigError(
            f"server_address = {site.server_address!r}: another machine needs --certs FOLDER (the folder that its "
            "administrator made for this site with `fedlens certs create`), or say --insecure"
        )
    return Place(address)


def own_data(config: Config, folder: RunDir, runtime: FlowerRuntime, observer: Observer) -> FederatedData:
    """The server's test images where the configuration names data; else none, and the label space of the sites."""
    if config.data.path is not None or config.data.source != AUTO:
        return replace(build_data(config, observer.progress, simulated=False), clients=())
    agreed = folder.path / "sites.json"
    if not agreed.exists():
        write_json(agreed, asdict(agreement(config, runtime.described(config.federated.min_fit_clients))))
    saved = read_saved(agreed, LabelSpace)
    space = LabelSpace(saved["class_names"], saved["image_size"], saved["channels"])
    observer.note(
        f"no data here: the clients' {len(space.class_names)} classes, {space.image_size} pixels; accuracy is measured "
        "at the clients"
    )
    empty = torch.empty(0, space.image_size, space.image_size, space.channels, dtype=torch.uint8)
    labels = torch.empty(0, dtype=torch.int64)
    return FederatedData(empty, labels, tuple(space.class_names), (), np.empty(0, np.int64), DataReport(0), "")


@dataclass(frozen=True)
class LabelSpace:
    """What sites have to have in common. Kept in the run's folder: a run that goes on does not ask again."""

    class_names: Annotated[Sequence[str], Field(min_length=1)]
    image_size: Side
    channels: Literal[1, 3]


def agreement(config: Config, sites: Sequence[Description]) -> LabelSpace:
    """What fits the sites that came first."""
    sizes = [site.native_size for site in sites]
    size = config.data.image_size or natural_size(config, max(sizes) if all(sizes) else None)
    return LabelSpace(label_space(sites), size, 1 if all(site.channels == 1 for site in sites) else 3)


def label_space(sites: Sequence[Description]) -> tuple[str, ...]:
    """One order for all: that of the site whose classes include everybody's, else all names, sorted."""
    everything = {name for site in sites for name in site.class_names}
    for site in sites:
        if set(site.class_names) == everything:
            return site.class_names
    return tuple(sorted(everything))


def setup_of(experiment: Experiment, run: str) -> Setup:
    """What the sites are told of the run. Of the data section, only what concerns them."""
    config = experiment.config.model_dump(mode="json")
    told = {key: config[key] for key in TOLD}
    told["data"] = {key: config["data"][key] for key in ("augment", "validation", "client_test")}
    data = experiment.shown
    return Setup(run, told, data.class_names, int(data.images.shape[1]), 1 if data.channels == 1 else 3)


HOME_METRICS = ("loss", "accuracy")
SHARED_METRICS = ("shared.loss", "shared.accuracy")
TRAINING_METRICS = ("loss", "seconds", "update_norm", "bytes_down", "bytes_up")


@dataclass(frozen=True)
class Work:
    """What training takes: at most `passes` over the images, in batches, with a momentum where it is SGD's."""

    passes: int = 1
    batch_size: int = 1
    momentum: float | None = None

    @classmethod
    def of(cls, config: Config, algorithm: Algorithm) -> Work:
        federated, optimizer = config.federated, config.optimizer
        momentum = optimizer.momentum if optimizer.name == "sgd" else None
        return cls(algorithm.personalization.passes(federated.local_epochs), federated.batch_size, momentum)


def expectation(
    resident: FlatModel,
    shared: State,
    strategy: Strategy,
    outputs: int,
    at_home: tuple[str, ...] = HOME_METRICS,
    work: Work = Work(),
) -> Expect:
    """What an honest answer looks like: for training, what the strategy itself makes of an update of zeros. `at_home`:
    what clients measure on their own test images."""
    zeros = {name: torch.zeros_like(value) for name, value in shared.items()}

    def expect(task: Task, client: ClientInfo | None) -> Expected:
        held_out = sum(client.counts["test"]) if client else 0
        if task.kind == "evaluate":
            return Expected(held_out, at_home)
        if task.kind == "count":
            counts: Mapping[Split, Sequence[int]] = client.counts if client else {}
            return Expected(held_out + sum(counts.get("val", ())), (), outputs=outputs, counts=counts)
        examples = client.examples if client else 0
        sent = {name: value for name, value in task.payload.items() if name in resident.names}
        context = LocalContext(
            round=task.round,
            client=task.client,
            examples=max(examples, 1),
            steps=work.passes * -(-max(examples, 1) // work.batch_size),
            lr=task.settings["lr"],
            momentum=work.momentum,
            start=resident.vector,  # of any numbers: only shapes are looked at
            module=resident.module,
            loss=1.0,
            received={name: value for name, value in task.payload.items() if name not in resident.names},
            private={},
            flatten=resident.flatten,
            unflatten=lambda vector: {n: v for n, v in resident.unflatten(vector).items() if n in zeros},
        )
        honest = strategy.finish(replace(context, steps=1), zeros)
        return Expected(
            examples,
            TRAINING_METRICS,
            shapes_of(honest.payload),
            shapes_of(honest.extra),
            l2_norm(sent.values()),
            partial(strategy.largest_extras, context),
            work.passes,
        )

    return expect
