"""A site's side of a federation: its images, its rules, its trainer. Knows nothing of the network."""

from __future__ import annotations

import fcntl
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedlens.config.blocks import AUTO, PERSONALIZATION, SOURCE, find
from fedlens.config.builders import Progress
from fedlens.config.experiment import Experiment, build_experiment
from fedlens.config.load import load
from fedlens.config.plugins import load_plugins
from fedlens.config.schema import Config, DataSection
from fedlens.config.site import SiteConfig
from fedlens.data.cache import Decoding
from fedlens.data.site import one_client, relabelled
from fedlens.data.sources import detect
from fedlens.data.types import FederatedData, ImageTable
from fedlens.errors import ConfigError, DataError, FedLensError, RuntimeFailure
from fedlens.federation.types import Answer, ClientFailure, Task
from fedlens.files import write_atomic
from fedlens.runtimes.flower.messages import Description, Prepared, Refusal, Setup, fingerprint
from fedlens.runtimes.meter import Meter, Seldom
from fedlens.training.client import ClientTrainer
from fedlens.training.device import enough_memory, resolve_device

TOLD = (
    *("model", "federated", "strategy", "personalization", "aggregation", "schedule", "optimizer", "transfer"),
    *("memory", "seed"),
)
"""Sections of a server's configuration that its sites are told."""

Tell = Callable[[str], None]

FREE_DISK = 200_000_000
"""Bytes that stay free after everything that a run keeps at a site."""


class Site:
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
        held = sorted(set(table.labels.tolist()))
        return Description(
            name=config.client,
            partition=config.partition_id,
            identity=identity(config.state),
            class_names=tuple(table.class_names[label] for label in held),
            images=len(table.labels),
            native_size=table.native_size or 0,
            channels=table.channels,
            device=str(resolve_device(config.device)),
            fedlens=version("fedlens"),
            flwr=version("flwr"),
            clock=time.time(),
        )

    def prepare(self, setup: Setup) -> Prepared | Refusal:
        """Get ready for a run, or say why not."""
        experiment = self._experiment(setup)
        if isinstance(experiment, Refusal):
            return experiment
        data = experiment.data
        (client,) = data.clients
        counts = [tuple(data.class_counts(rows).tolist()) for rows in (client.train, client.val, client.test)]
        return Prepared(*counts)

    def run(self, task: Task, setup: Setup) -> Answer | ClientFailure | Refusal:
        """Do a task of a run, if this site's rules allow the run."""
        experiment = self._experiment(setup)
        if isinstance(experiment, Refusal):
            return experiment
        if task.client != self._config.client:
            return Refusal(f"this is {self._config.client}, and the task is {task.client}'s")
        rounds = experiment.config.federated.num_rounds
        if task.kind == "train" and task.round > rounds:
            return Refusal(f"the run was to have {rounds} rounds, and this is round {task.round}")
        if not experiment.trainer.shared <= task.payload.keys():
            return Refusal("the task lacks parts of the model")
        try:
            return self._shown(experiment.trainer, task)
        except (FedLensError, KeyError, RuntimeError) as error:
            return ClientFailure(task.client, task.round, f"{type(error).__name__}: {error}")

    def _shown(self, trainer: ClientTrainer, task: Task) -> Answer | ClientFailure:
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
        """What the setup builds here; kept until another setup comes."""
        key = fingerprint(setup)
        if self._built is not None and self._built[0] == key:
            return self._built[1]
        self._built = None  # or there would be two models
        try:
            config = local_config(setup, self._config)
            refused = objection(config, self._config)
            if refused:
                return Refusal(refused)
            self._check_disk(setup)
            data = self._data(config, setup)
            few = self._config.allow.min_images
            if few and len(data.clients[0].train) < few:
                return Refusal(f"this site has fewer training images than its allow.min_images={few}")
            folder = self._config.state / setup.run
            with enough_memory():
                built = build_experiment(config, folder, self._progress, model=None, data=data)
        except RuntimeFailure as error:
            return Refusal(str(error), final=False)  # there may be room later
        except (FedLensError, OSError) as error:
            return Refusal(str(error))
        self._built = (key, built)
        return built

    def _data(self, config: Config, setup: Setup) -> FederatedData:
        own = self._config
        return one_client(
            relabelled(self._table, setup.class_names),
            own.client,
            Decoding(setup.image_size, own.on_bad_image, own.max_pixels, own.cache_dir),
            validation=config.data.validation,
            client_test=config.data.client_test,
            seed=config.seed,
            progress=self._progress("decoding images"),
        )

    def _check_disk(self, setup: Setup) -> None:
        """Say what the images will take, before they are decoded.

        Raises:
            DataError: less than `FREE_DISK` is free at the site's state.
        """
        folder = self._config.state
        free = shutil.disk_usage(folder).free
        decoded = len(self._table.labels) * setup.image_size**2 * setup.channels / 1e6
        self._tell(f"disk: {decoded:,.1f} MB of decoded images in the cache; {free / 1e6:,.0f} MB free for {folder}")
        if free < FREE_DISK:
            raise DataError(f"state_dir: {folder} has {free / 1e6:,.0f} MB free; {FREE_DISK / 1e6:,.0f} MB are needed")


def images_of(config: SiteConfig) -> ImageTable:
    """The site's own images, as its source lists them.

    Raises:
        DataError: there are none, or not in the expected form.
    """
    load_plugins(config.plugins)
    try:
        source = detect(config.data_dir) if config.source == AUTO else config.source
        if source == "clients":
            raise DataError(
                f"data_dir: {config.data_dir} holds the folders of several clients: name one of them, such as "
                f"{config.data_dir / 'client1'}"
            )
        section = DataSection.model_validate({"source": source, "path": config.data_dir})
        return SOURCE.choose(section).load()
    except DataError as error:
        raise DataError(str(error).replace("data.path", "data_dir").replace("data.source", "source")) from error


def make_site(config: SiteConfig, tell: Tell, progress: Progress) -> Site:
    """For `runtimes.flower.worker.MakeSite`, by `functools.partial`."""
    return Site(config, tell, progress)


def local_config(setup: Setup, site: SiteConfig) -> Config:
    """The server's configuration as this site uses it: its own paths, device and plugins, and none of the server's.

    Weights come with the first task, so `pretrained` counts only for what never travels: a frozen backbone, and parts
    that a personalisation keeps with the client.

    Raises:
        ConfigError: this FedLens does not know a key or a name in it.
    """
    try:
        told = _told(setup, site)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"the server's configuration lacks a part, or has it in another form: {error}") from error
    return load(None, (), told)


def _told(setup: Setup, site: SiteConfig) -> dict[str, Any]:
    """The tree of `local_config`."""
    sections = setup.config
    model = {**sections["model"], "weights": None}
    model["num_classes"] = model.get("num_classes") or len(setup.class_names)
    frozen = model.get("freeze", "none") != "none" or bool(model.get("lora", {}).get("rank"))
    stays = frozen or keeps_parts(str(sections["personalization"]["name"]))
    model["pretrained"] = bool(model.get("pretrained")) and stays
    kept = {key: sections["data"][key] for key in ("augment", "validation", "client_test")}
    return {
        **{key: sections[key] for key in TOLD if key != "model"},
        "model": model,
        "data": {**kept, "image_size": setup.image_size, "cache_dir": site.cache_dir},
        "runtime": {"name": "in_process", "device": site.device},
        "plugins": [str(path) for path in site.plugins],
    }


def keeps_parts(personalization: str) -> bool:
    """Whether clients keep parts of the model under that method; an unknown one is refused later, by its name."""
    try:
        return find(PERSONALIZATION, personalization)[0].factory.keeps_parts()
    except ConfigError:
        return False


def objection(config: Config, site: SiteConfig) -> str | None:
    """Why this site's rules forbid the run; None when they do not."""
    allow = site.allow
    asked: Mapping[str, tuple[str, list[str] | None]] = {
        "strategies": (config.strategy.name, allow.strategies),
        "personalizations": (config.personalization.name, allow.personalizations),
        "models": (config.model.name, allow.models),
    }
    for what, (name, allowed) in asked.items():
        if allowed is not None and name not in allowed:
            return f"this site's allow.{what} is {', '.join(allowed) or 'empty'}, and the run uses {name}"
    epochs = PERSONALIZATION.choose(config.personalization).passes(config.federated.local_epochs)
    passes = "local epochs" if epochs == config.federated.local_epochs else "passes over the images in a round"
    most = {
        "max_local_epochs": (epochs, allow.max_local_epochs, passes),
        "max_rounds": (config.federated.num_rounds, allow.max_rounds, "rounds"),
    }
    for key, (wanted, limit, what) in most.items():
        if limit is not None and wanted > limit:
            return f"this site's allow.{key} is {limit}, and the run asks for {wanted} {what}"
    if allow.max_epsilon is not None:  # a promise that nobody counts is none
        return f"this site's allow.max_epsilon is {allow.max_epsilon:g}, and the run promises no differential privacy"
    return None


def identity(state: Path) -> str:
    """What tells this site from another of its name; drawn once, kept in the state folder."""
    path = state / "identity"
    if not path.exists():
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, secrets.token_hex(16))
    return path.read_text().strip()


@contextmanager
def alone(config: SiteConfig) -> Iterator[None]:
    """Hold the site's state folder, so that no second client uses it.

    Raises:
        ConfigError: one does, or the folder cannot be written.
    """
    folder = config.state
    with ExitStack() as held:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what stays here is nobody else's
            lock = held.enter_context((folder / "lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"partition_id={config.partition_id}: a client of that partition ({config.client}) already runs here, "
                f"in {folder}; give this one another --partition_id"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"state_dir: {folder} cannot be used: {error.strerror}; choose another --state_dir"
            ) from error
        yield


def site_maker(config: SiteConfig) -> Callable[[Tell, Progress], Site]:
    """A picklable maker of the site, for a worker process."""
    return partial(make_site, config)
