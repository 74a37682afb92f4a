"""One run from start to end: its folder, its trackers, the coordinator, and the files that remain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from torch import nn

from fedlens.aggregation.base import Aggregator
from fedlens.build.against_data import check_stopping
from fedlens.build.builders import build_plan
from fedlens.build.checks import check_rule
from fedlens.build.experiment import Experiment, build_experiment, with_display_names
from fedlens.build.graph import without_graph
from fedlens.build.measures import measures
from fedlens.build.own_strategy import keys_of
from fedlens.build.privacy import doubts, private_sum
from fedlens.build.runtimes import build_runtime, check_clients
from fedlens.build.scoring import (
    Scoring,
    cross_site_evaluation,
    scoring_by_clients,
    shared_model_scorer,
)
from fedlens.build.secure import check_secure
from fedlens.build.vectorized import one_by_one
from fedlens.config.schema import Config
from fedlens.core.files import write_json
from fedlens.core.records import Tracker
from fedlens.core.types import State
from fedlens.data.types import FederatedData
from fedlens.errors import DataError
from fedlens.explain.explain import explain
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.federation.coordinator import Coordinator
from fedlens.federation.measures import ClientMeasures
from fedlens.privacy.release import PrivateSum
from fedlens.reports.html import write_report
from fedlens.runtimes.base import Runtime
from fedlens.session.header import few_validation_images, font_notes, header
from fedlens.session.saved_models import save_models
from fedlens.session.start import prepare_folder, starting_point
from fedlens.strategies.base import RoundContext, Strategy
from fedlens.tracking.board import Board
from fedlens.tracking.metrics import MetricsFile
from fedlens.tracking.missing_rounds import missing_note
from fedlens.tracking.nearest_texts import keep_nearest_texts
from fedlens.tracking.observer import Observer
from fedlens.tracking.predictions import keep_pictures
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.stopwatch import Stopwatch
from fedlens.tracking.writers import check_writers, writing
from fedlens.training.client import ClientTrainer
from fedlens.training.device import enough_memory
from fedlens.transforms.base import ReceivingContext


@dataclass(frozen=True)
class UserObjects:
    """What a Python user hands in instead of configuring it."""

    model: nn.Module | None = None
    data: FederatedData | None = None
    strategy: Strategy | None = None


@enough_memory()
def execute(
    config: Config, folder: RunDir, given: UserObjects, observer: Observer, trackers: Sequence[Tracker]
) -> nn.Module:
    """Start or resume the run in `folder`; gives the final model. A run that is stopped at any moment can be resumed.

    Raises:
        FedLensError: the folder keeps the last whole checkpoint.
        KeyboardInterrupt: passed on once every finished round is on disk.
    """
    check_writers(config)
    watch = Stopwatch()
    progress = watch.timed(observer.progress)
    experiment = build_experiment(config, folder.path, progress, model=given.model, data=given.data)
    # report too few clients before a run exists
    data, sampler = experiment.train_data, build_plan(config).sampler
    check_rule(config, sampler.size(len(data.clients)))
    most, fewest = max(len(client.train) for client in data.clients), sampler.fewest(len(data.clients))
    check_secure(config, fewest, most, experiment.algorithm.chain.sum_noise({}, fewest))
    check_stopping(config, len(data.val))
    check_clients(config, [client.name for client in data.clients])
    return run_rounds(
        experiment,
        folder,
        lambda: build_runtime(experiment, partial(rebuild_trainer, config, folder.path, given, experiment.holdings)),
        lambda _runtime: Scoring(
            shared_model_scorer(experiment, data.test, observer.progress("test images")),
            shared_model_scorer(experiment, data.val, observer.progress("validation images")),
            measures(experiment),
        ),
        observer,
        trackers,
        watch,
    )


def run_rounds(
    experiment: Experiment,
    folder: RunDir,
    make_runtime: Callable[[], Runtime],
    make_scoring: Callable[[Runtime], Scoring],
    observer: Observer,
    trackers: Sequence[Tracker],
    watch: Stopwatch,
) -> nn.Module:
    """Run the rounds of `experiment` with any runtime, and write its files; gives the final model, on the CPU as when
    it is read from the folder.

    `make_scoring` says how the shared model is evaluated, where there is one.
    """
    experiment = with_display_names(experiment)
    config, privacy = experiment.config, private_sum(experiment)
    for note in (*experiment.notes, *experiment.images.report.findings, *font_notes(experiment)):
        observer.note(note)
    checkpoints = Checkpoints(folder.checkpoints, config.tracking.keep_checkpoints)
    start = [starting_point(folder, experiment, checkpoints, observer)]
    begun = start[0].round
    with writing(config, folder, observer.note) as writers, running(make_runtime()) as runtime:
        runtime.watch = observer.standing
        for note in doubts(privacy.claim, len(runtime.known())) if privacy else ():
            observer.note(note)
        prepare_folder(folder, experiment, runtime)
        observer.start(
            header(experiment, folder, runtime, privacy.claim if privacy else None),
            config.federated.num_rounds,
            begun,
        )
        warnings = few_validation_images(experiment, runtime), one_by_one(experiment), without_graph(experiment)
        for doubt in filter(None, warnings):
            observer.note(doubt)
        metrics = MetricsFile(folder.metrics, begun)
        if lost := missing_note(metrics.missing):
            observer.note(lost)
        board = Board(folder, experiment, runtime, writers)
        everybody: list[Tracker] = [metrics, board, observer, *trackers]
        scoring = scoring_of(experiment, runtime, make_scoring)
        if privacy:
            privacy.resume(begun)
        with coordinating(experiment, runtime, scoring, everybody, checkpoints, privacy, observer.note) as coordinator:
            watch.part("rounds")
            end = coordinator.run(start.pop())  # popped, so that the first model is freed when the next one is there
            watch.part("report")
            folder.save_data(experiment.images, runtime.known(), experiment.display)
            save_models(experiment, folder, end, checkpoints)
            keep_test_rows(experiment, folder)
            if config.federated.cross_site:
                watch.part("cross-site evaluation")
                cross_sites(experiment, runtime, folder, end, observer.note)
                watch.part("report")
            board.finish()
        folder.finish(end.finished or f"all {config.federated.num_rounds} rounds done")
        if config.tracking.report:
            page = write_report(folder.path)
            writers.tell(lambda writer: writer.report(page))
    observer.finish(folder.path, watch.spent(), explain(folder.path))
    return experiment.model.to("cpu")


def scoring_of(experiment: Experiment, runtime: Runtime, make_scoring: Callable[[Runtime], Scoring]) -> Scoring:
    """By the clients where the model is not shared as a whole; by the server where nothing is told of single ones."""
    scoring = scoring_by_clients(experiment, runtime) if experiment.partly_private else make_scoring(runtime)
    return scoring.by_server() if experiment.unmeasured else scoring


def keep_test_rows(experiment: Experiment, folder: RunDir) -> None:
    """Keep test images and texts for the report; those of an earlier end are removed where they are not wanted now."""
    tracking = experiment.config.tracking
    if tracking.report and tracking.pictures:
        keep_pictures(experiment, folder.pictures)
        keep_nearest_texts(experiment, folder.nearest_texts)
    else:
        folder.pictures.unlink(missing_ok=True)
        folder.nearest_texts.unlink(missing_ok=True)


def cross_sites(
    experiment: Experiment, runtime: Runtime, folder: RunDir, end: Checkpoint, note: Callable[[str], None]
) -> None:
    """Write `cross-site.json`; the final model is loaded afterwards, as before.

    Raises:
        FedLensError: the disk is full; the run's own model is saved.
    """
    evaluation = cross_site_evaluation(experiment, runtime, folder.path / "cross-site", note)
    write_json(folder.cross_site, asdict(evaluation(end)))
    experiment.trainer.load_shared(end.state.shared)  # clients of this process have used the same model


@contextmanager
def running(runtime: Runtime) -> Iterator[Runtime]:
    """A runtime that is closed at the end, also after an error."""
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
    privacy: PrivateSum | None,
    note: Callable[[str], None],
) -> Iterator[Coordinator]:
    """A coordinator and its bookkeeping; also after an error, finished rounds are written and trackers are closed."""
    books = Bookkeeping(trackers, checkpoints)
    try:
        yield Coordinator(
            build_plan(experiment.config),
            experiment.algorithm.strategy,
            runtime,
            experiment.trained,
            books,
            partial(aggregator_of, experiment, privacy),
            chain=experiment.algorithm.chain,
            test=scoring.test,
            validation=scoring.validation,
            measure=scoring.measure,
            describe=ClientMeasures(
                experiment.trained,
                experiment.algorithm.summed,
                experiment.whole_model,
                experiment.malicious,
                experiment.unmeasured,
            ),
            malicious=experiment.malicious,
            groups=experiment.modality_groups,
            over=privacy.over if privacy else lambda _round: None,
            note=note,
        )
    finally:
        books.close()
        for tracker in trackers:
            tracker.close()


def aggregator_of(experiment: Experiment, privacy: PrivateSum | None, ctx: RoundContext, kept: State) -> Aggregator:
    """A new aggregator for one round's decoded results. `kept`: what the one before kept."""
    algorithm = experiment.algorithm
    told = algorithm.chain.told(kept)
    aggregator = algorithm.aggregator(ReceivingContext(ctx.round, experiment.trained, ctx.cohort, kept, told))
    return privacy.around(aggregator, ctx.round, kept) if privacy else aggregator


@enough_memory()
def rebuild_trainer(config: Config, folder: Path, given: UserObjects, holdings: str) -> ClientTrainer:
    """A worker's trainer, made again from the configuration where a process cannot inherit it.

    Raises:
        DataError: the images here are not those of the run, whose `Experiment.holdings` are given.
    """
    if given.strategy:
        keys_of(given.strategy)  # so that a process that begins anew knows its class
    quiet = lambda _label: lambda _done, _all: None  # noqa: E731
    experiment = build_experiment(config, folder, quiet, model=given.model, data=given.data)
    if experiment.holdings != holdings:
        place = f"data.path={config.data.path}" if config.data.path else f"data.source={config.data.source}"
        raise DataError(
            f"{place} gives other images here than where the run was started: put the same files at that path"
        )
    return experiment.trainer
