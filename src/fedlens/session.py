"""One run from start to end: its folder, its trackers, the coordinator, and what is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from fedlens.board import Board
from fedlens.config.against_data import check_stopping
from fedlens.config.blocks import AGGREGATION, MODEL, PYTHON, find
from fedlens.config.builders import build_plan
from fedlens.config.experiment import Experiment, build_experiment
from fedlens.config.load import dump
from fedlens.config.paths import PATHS_FILE, save_paths
from fedlens.config.pictures import keep_pictures
from fedlens.config.runtimes import build_runtime, check_clients
from fedlens.config.schema import Config
from fedlens.data.types import FederatedData
from fedlens.errors import CheckpointError, ConfigError, DataError
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.coordinator import Coordinator, Evaluate, Measure
from fedlens.federation.measures import ClientMeasures
from fedlens.federation.records import Tracker
from fedlens.federation.survey import Survey
from fedlens.files import write_atomic, write_json
from fedlens.fonts import missing_note
from fedlens.models.artefact import ModelDescription, save_model
from fedlens.models.lora import merged
from fedlens.reports.html import write_report
from fedlens.runtimes.base import Runtime
from fedlens.tracking.intervals import wilson
from fedlens.tracking.metrics import MetricsFile, read_metrics
from fedlens.tracking.observer import Observer
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.saved import read_saved
from fedlens.tracking.stopwatch import Stopwatch
from fedlens.tracking.summary import algorithm_name
from fedlens.training.client import ClientTrainer
from fedlens.training.device import enough_memory

ENOUGH_VALIDATION = 100
"""Images; with fewer, a 95 % interval is wider than 20 points."""


@dataclass(frozen=True)
class Given:
    """What a Python user hands in instead of configuring it."""

    model: nn.Module | None = None
    data: FederatedData | None = None


@enough_memory()
def execute(config: Config, folder: RunDir, given: Given, observer: Observer, trackers: Sequence[Tracker]) -> nn.Module:
    """Run or go on with what is in `folder`; gives the final model. A stop at any moment can be gone on from.

    Raises:
        FedLensError: the folder keeps the last whole checkpoint.
        KeyboardInterrupt: passed on after what is finished is on disk.
    """
    watch = Stopwatch()
    progress = watch.timed(observer.progress)
    experiment = build_experiment(config, folder.path, progress, model=given.model, data=given.data)
    # too few clients: say so before there is a run
    check_rule(config, build_plan(config).cohorts.size(len(experiment.data.clients)))
    data = experiment.data
    check_stopping(config, len(data.val))
    check_clients(config, [client.name for client in data.clients])
    return conduct(
        experiment,
        folder,
        lambda: build_runtime(experiment, partial(rebuild_trainer, config, folder.path, given, experiment.holdings)),
        lambda _runtime: Scoring(
            experiment.evaluator(data.test, observer.progress("test images")),
            experiment.evaluator(data.val, observer.progress("validation images")),
            experiment.attack_measure(),
        ),
        observer,
        trackers,
        watch,
    )


@dataclass(frozen=True)
class Scoring:
    """How the shared model is scored on test and on validation images, and what else is measured of it; None where
    there are none."""

    test: Evaluate | None
    validation: Evaluate | None
    measure: Measure | None = None


def check_rule(config: Config, cohort: int) -> None:
    """Look whether the rule of aggregation can work with a round's answers.

    Raises:
        ConfigError: it cannot.
    """
    if objection := AGGREGATION.choose(config.aggregation).objection(cohort):
        raise ConfigError(f"aggregation.{objection}")


def by_clients(experiment: Experiment, runtime: Runtime) -> Scoring:
    """Where parts of the model are private: no test accuracy, for there is no model for everybody; validation is the
    own models of the clients that have trained and do not attack, on their own validation images."""
    lr, malicious = build_plan(experiment.config).lr, experiment.malicious
    survey = Survey(runtime, ("val",), lr, personal=True, malicious=malicious)
    return Scoring(None, partial(survey, "val"))


def conduct(
    experiment: Experiment,
    folder: RunDir,
    make_runtime: Callable[[], Runtime],
    make_scoring: Callable[[Runtime], Scoring],
    observer: Observer,
    trackers: Sequence[Tracker],
    watch: Stopwatch,
) -> nn.Module:
    """The rounds of `experiment` wherever its clients live, and what they leave behind; gives the final model, on the
    CPU as when it is read from the folder.

    `make_scoring` says how the shared model is scored, where there is one.
    """
    config = experiment.config
    for note in (*experiment.notes, *experiment.shown.report.findings, *font_notes(experiment)):
        observer.note(note)
    checkpoints = Checkpoints(folder.checkpoints, config.tracking.keep_checkpoints)
    start = [starting_point(folder, experiment, checkpoints, observer)]
    begun = start[0].round
    with running(make_runtime()) as runtime:
        runtime.watch = observer.standing
        prepare_folder(folder, experiment, runtime)
        observer.start(header(experiment, folder, runtime), config.federated.num_rounds, begun)
        if doubt := few_validation_images(experiment, runtime):
            observer.note(doubt)
        board = Board(folder, experiment, runtime, begun) if config.tracking.tensorboard else None
        files: list[Tracker] = [MetricsFile(folder.metrics, begun), *([board] if board else [])]
        everybody = [*files, observer, *trackers]
        scoring = by_clients(experiment, runtime) if experiment.partly_private else make_scoring(runtime)
        with coordinating(experiment, runtime, scoring, everybody, checkpoints, observer.note) as coordinator:
            watch.part("rounds")
            end = coordinator.run(start.pop())  # nobody else holds the first model, so it goes when the next is there
            watch.part("report")
            folder.save_data(experiment.shown, runtime.known())
            leave_behind(experiment, folder, end, checkpoints)
            if config.tracking.report and config.tracking.pictures:
                keep_pictures(experiment, folder.pictures)
            if board:
                board.finish()
    folder.finish(end.finished or f"all {config.federated.num_rounds} rounds done")
    if config.tracking.report:
        write_report(folder.path)
    observer.finish(folder.path, watch.spent())
    return experiment.model.to("cpu")


def few_validation_images(experiment: Experiment, runtime: Runtime) -> str | None:
    """What to know where validation has so few images that it decides by chance; None where it has enough, or none."""
    apart = experiment.malicious if experiment.partly_private else frozenset()
    images = sum(sum(client.counts["val"]) for client in runtime.known() if client.name not in apart)
    interval = wilson(0.5, images)
    if interval is None or images >= ENOUGH_VALIDATION:
        return None
    return (
        f"validation has only {images} image{'s' * (images != 1)}: an accuracy of 50 % on them may be anything from "
        f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f} %, so early stopping and the best model depend on chance; "
        f"use more images, or a larger data.validation (now {experiment.config.data.validation:g})"
    )


def font_notes(experiment: Experiment) -> list[str]:
    """Which names TensorBoard's pictures cannot show."""
    data = experiment.shown
    names = (*data.class_names, *(client.name for client in data.clients))
    note = missing_note(names) if experiment.config.tracking.tensorboard else None
    return [note] if note else []


def starting_point(folder: RunDir, experiment: Experiment, checkpoints: Checkpoints, observer: Observer) -> Checkpoint:
    """The newest whole checkpoint, or the beginning.

    Raises:
        CheckpointError: the images, or who holds them, are not as they were when the run began.
    """
    fingerprint = folder.fingerprint
    if fingerprint.exists() and read_saved(fingerprint, str) != experiment.shown.cache_key:
        given = experiment.config.data.source == PYTHON
        back = "give the same ones as data=" if given else "put them back, say data.path=FOLDER where they have moved"
        raise CheckpointError(
            f"the images have changed since {folder.path} began: {back}, or start a new run with `fedlens run`"
        )
    if not folder.divides(experiment.shown):
        raise CheckpointError(
            f"{folder.path}: the images are divided among the clients in another way than when this run began, "
            "which was perhaps with an older version of FedLens: start a new run with `fedlens run`"
        )
    write_json(fingerprint, experiment.shown.cache_key)
    first = Checkpoint(0, experiment.algorithm.strategy.init(experiment.shared))
    start = checkpoints.latest(observer.note) or first
    start.check_model(first.state.shared)
    return start


def prepare_folder(folder: RunDir, experiment: Experiment, runtime: Runtime) -> None:
    """What a reader of the folder needs to know, before the first round."""
    write_atomic(folder.config, dump(experiment.config))
    save_paths(folder.config.with_name(PATHS_FILE), experiment.config)
    folder.save_versions(str(experiment.device))
    folder.save_data(experiment.shown, runtime.known())


@contextmanager
def running(runtime: Runtime) -> Iterator[Runtime]:
    """A runtime that is ended, whatever happens."""
    try:
        yield runtime
    finally:
        runtime.close()


@contextmanager
def coordinating(
    experiment: Experiment,
    runtime: Runtime,
    scoring: Scoring,
    trackers: Sequence[Tracker],
    checkpoints: Checkpoints,
    note: Callable[[str], None],
) -> Iterator[Coordinator]:
    """A coordinator and its bookkeeping; finished rounds are written, and the trackers closed, whatever happens."""
    books = Bookkeeping(trackers, checkpoints)
    try:
        yield Coordinator(
            build_plan(experiment.config),
            experiment.algorithm.strategy,
            runtime,
            experiment.trained,
            books,
            experiment.trainer.make_aggregator,
            test=scoring.test,
            validation=scoring.validation,
            measure=scoring.measure,
            describe=ClientMeasures(
                experiment.trained, experiment.algorithm.summed, experiment.whole_model, experiment.malicious
            ),
            malicious=experiment.malicious,
            note=note,
        )
    finally:
        books.close()
        for tracker in trackers:
            tracker.close()


@enough_memory()
def rebuild_trainer(config: Config, folder: Path, given: Given, holdings: str) -> ClientTrainer:
    """A worker's trainer, made again from the configuration where a process cannot inherit it.

    Raises:
        DataError: the images here are not those of the run, whose `Experiment.holdings` are given.
    """
    quiet = lambda _label: lambda _done, _all: None  # noqa: E731
    experiment = build_experiment(config, folder, quiet, model=given.model, data=given.data)
    if experiment.holdings != holdings:
        place = f"data.path={config.data.path}" if config.data.path else f"data.source={config.data.source}"
        raise DataError(
            f"{place} gives other images here than where the run was started: put the same files at that path"
        )
    return experiment.trainer


def header(experiment: Experiment, folder: RunDir, runtime: Runtime) -> Mapping[str, str]:
    """What is about to run, for people."""
    config, data, clients = experiment.config, experiment.shown, runtime.known()
    parameters = sum(value.numel() for value in experiment.model.parameters())
    images = sum(client.examples for client in clients)
    return {
        "data": data_line(data, len(clients)),
        "model": f"{config.model.name}, {parameters:,} parameters, {experiment.resident.vector.numel():,} trained",
        "strategy": algorithm_name(config.model_dump(mode="json")),
        "clients": f"{len(clients)}, holding {images:,} training images of {len(data.class_names)} classes",
        "device": str(experiment.device),
        "folder": str(folder.path),
    }


def data_line(data: FederatedData, clients: int) -> str:
    """ "imagefolder PHOTOS · 200 images · 4 classes · dirichlet α 0.3 · 4 clients"; of a server, what it tests on."""
    report, simulated = data.report, bool(data.clients)
    parts = [
        report.source or "the sites' own",
        *([f"{len(data.labels):,} images{'' if simulated else ' here, for tests'}"] if len(data.labels) else []),
        f"{len(data.class_names)} classes",
        *([report.scheme] if simulated and report.scheme else []),
        f"{clients} client{'s' * (clients != 1)}",
    ]
    return " · ".join(parts)


def leave_behind(experiment: Experiment, folder: RunDir, end: Checkpoint, checkpoints: Checkpoints) -> None:
    """The best model by validation in `best/`, the final one in `model/`; the final one stays loaded."""
    accuracies = {line["round"]: (line["test"] or {}).get("accuracy") for line in read_metrics(folder.metrics)}
    best = checkpoints.load_best()
    if best is not None:
        experiment.trainer.leave(best)
        accuracy = accuracies.get(end.progress.best_round)
        save_model(folder.path / "best", merged(experiment.model), describe(experiment, accuracy))
    experiment.trainer.leave(end.state.shared)
    save_model(folder.model, merged(experiment.model), describe(experiment, accuracies.get(end.round)))


def describe(experiment: Experiment, accuracy: float | None) -> ModelDescription:
    """What `fedlens predict` needs to build the model again. A user's own module has no builder."""
    section, data = experiment.config.model, experiment.shown
    builder, parameters = None, {}
    if experiment.configured:
        entry, implied = find(MODEL, section.name)
        builder, parameters = entry.name, {**section.parameters, **implied}
    return ModelDescription(
        builder=builder,
        num_classes=section.num_classes or len(data.class_names),
        class_names=data.class_names,
        image_size=max(data.sides),
        image_channels=data.channels,
        parameters=parameters,
        norm=section.norm,
        accuracy=accuracy,
        partly_private=experiment.partly_private,
    )
