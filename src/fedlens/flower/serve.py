"""A federation between machines, from both ends: `serve` is a server's run, `join` a site's part in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch

from fedlens.build.builders import build_algorithm, build_data, build_plan, build_sampler
from fedlens.build.checks import check_rule
from fedlens.build.experiment import Experiment, build_experiment
from fedlens.build.measures import measures
from fedlens.build.modalities import reader_key
from fedlens.build.scoring import Scoring, shared_model_scorer
from fedlens.build.secure import check_secure
from fedlens.config import problems
from fedlens.config.blocks import AUTO, CLOCK, frozen_by
from fedlens.config.schema import AttackSection, Config
from fedlens.core.files import write_json
from fedlens.core.heap import one_heap
from fedlens.core.records import Tracker
from fedlens.data.modalities import perhaps_without_texts
from fedlens.data.types import DataReport, FederatedData
from fedlens.errors import ConfigError
from fedlens.federation.evaluator import FederatedEvaluator
from fedlens.flower.addresses import bind_address, hint, joined
from fedlens.flower.certificates import ServerCredentials, load_registry
from fedlens.flower.client_manager import Bounds
from fedlens.flower.expectation import expectation, view_of
from fedlens.flower.label_space import LabelSpace, agreement
from fedlens.flower.messages import Setup
from fedlens.flower.own_superlink import OwnSuperLink
from fedlens.flower.runtime import FlowerRuntime
from fedlens.flower.site_policy import TOLD
from fedlens.flower.superlink import SuperLink
from fedlens.runtimes.base import Runtime
from fedlens.session.run import run_rounds
from fedlens.tracking.observer import Observer
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.saved import read_saved
from fedlens.tracking.stopwatch import Stopwatch
from fedlens.tracking.writers import check_writers
from fedlens.training.device import enough_memory, resolve_device

NO_DEADLINE = 3600.0
"""Seconds of a round without `federated.round_deadline`: a site that hangs must not block the federation."""


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
    credentials = None
    if config.server.certs:
        credentials = ServerCredentials.load(config.server.certs)
        load_registry(config.server.certs)  # its mistakes are reported before anything is started
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
    """Check for settings that are impossible with real sites, before waiting for sites.

    Raises:
        ConfigError: an attack, a virtual clock, a device or a tracker that is not here, or a rule that the smallest
            cohort is too small for.
    """
    resolve_device(config.runtime.device)
    check_writers(config)
    check_clock(config)
    if config.attack.name != AttackSection().name:
        text = "attacks are for simulations (`fedlens run`); real sites are not made to lie; use attack.name=none"
        raise ConfigError(problems.problem("idle_key", "attack.name", text, config.attack.name))
    check_rule(config, config.federated.min_fit_clients)
    population = config.privacy.parameters.get("population")
    fewest = build_sampler(config).fewest(population) if population else config.federated.min_fit_clients
    check_secure(config, fewest, noise=build_algorithm(config).chain.sum_noise({}, fewest))


def conduct_sites(
    config: Config,
    folder: RunDir,
    runtime: FlowerRuntime,
    observer: Observer,
    trackers: Sequence[Tracker],
    watch: Stopwatch,
) -> torch.nn.Module:
    """The run itself, with the sites of `runtime`."""
    watch.part("waiting for clients")
    data = own_data(config, folder, runtime, observer)
    watch.part("start")
    progress = watch.timed(observer.progress)
    experiment = build_experiment(config, folder.path, progress, model=None, data=data)
    runtime.open(setup_of(experiment, folder.name), expectation(view_of(experiment)))
    watch.part("waiting for clients")
    runtime.clients(config.federated.min_fit_clients)
    watch.part("start")
    scoring = partial(scoring_of, experiment)
    module = run_rounds(experiment, folder, lambda: runtime, scoring, observer, trackers, watch)
    runtime.finish(f"all its rounds are done ({config.federated.num_rounds})")
    return module


def scoring_of(experiment: Experiment, runtime: Runtime) -> Scoring:
    """The server's own test images where it has some, else those of the sites; validation is the sites'."""
    own_test = shared_model_scorer(experiment, experiment.train_data.test)
    lr = build_plan(experiment.config).lr
    evaluator = FederatedEvaluator(runtime, ("val",) if own_test else ("test", "val"), lr)
    test, validation = own_test or partial(evaluator, "test"), partial(evaluator, "val")
    return Scoring(test, validation, measures(experiment), tests_here=own_test is not None)


def bounds(config: Config) -> Bounds:
    """Upper bounds of what sites report."""
    return Bounds(config.server.max_examples, config.server.max_classes)


def check_clock(config: Config) -> None:
    """Real clients have no virtual clock.

    Raises:
        ConfigError: one is configured.
    """
    if CLOCK.choose(config.clock).virtual:
        raise ConfigError(
            f"clock.name = {config.clock.name!r}: sites take the time that they take; a clock is for simulation "
            "(`fedlens run`), so leave it out",
            code="idle_key",
            key="clock.name",
        )


def check_weights(config: Config) -> None:
    """Raises ConfigError where the sites would freeze other weights than the server: what is frozen never travels, and
    neither does a file."""
    weights, what = config.model.weights, frozen_by(config.model.model_dump())
    if weights is not None and what is not None:
        raise ConfigError(
            f"model.weights = {str(weights)!r}: with {what} every site would need these weights, and they do not "
            "travel; use model.pretrained=true, or train the whole model",
            code="contradiction",
            key="model.weights",
        )


def own_data(config: Config, folder: RunDir, runtime: FlowerRuntime, observer: Observer) -> FederatedData:
    """The server's test images where the configuration names data; else none, and the label space of the sites."""
    if config.data.path is not None or config.data.source != AUTO:
        data = build_data(config, observer.progress, simulated=False)
        return replace(perhaps_without_texts(data), clients=())
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
    nobody = np.empty(0, np.int64)
    data = FederatedData(empty, labels, tuple(space.class_names), (), nobody, DataReport(0), "")
    return perhaps_without_texts(data)


def setup_of(experiment: Experiment, run: str) -> Setup:
    """The setup that sites get. Of the data section it has only the keys that concern them."""
    config = experiment.config.model_dump(mode="json")
    told = {key: config[key] for key in TOLD}
    told["data"] = {key: config["data"][key] for key in ("augment", "validation", "client_test")}
    data = experiment.images
    reader = reader_key(experiment.config)
    return Setup(run, told, data.class_names, int(data.images.shape[1]), 1 if data.channels == 1 else 3, reader)
