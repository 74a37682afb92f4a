"""How much of a client's pictures can be made of what others see of it, from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from fedlens.build.attacker import Attacker, Reconstruction
from fedlens.build.builders import Progress, build_data, federation_of
from fedlens.build.experiment import Experiment, build_experiment
from fedlens.build.privacy_views import Views
from fedlens.config import problems
from fedlens.config.blocks import PRIVACY
from fedlens.config.plugins import load_plugins
from fedlens.config.schema import Config
from fedlens.data.types import FederatedData
from fedlens.errors import ConfigError, DataError
from fedlens.privacy.base import PrivacyMode
from fedlens.privacy.client_level import ClientLevel
from fedlens.privacy.inversion import Inversion, psnr

COHORT = 4
"""Clients in the round that is shown."""


@dataclass(frozen=True)
class View:
    """Something that somebody sees of the client, and what was made of it. `cosine`: of the angle between it and the
    update without protection."""

    title: str
    told: str
    cosine: float
    found: Reconstruction
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """originals    (B, C, S, S) of the client, pixels from 0 to 1
    labels       names of their classes
    flat         PSNR of the best picture of one colour for each, a guess of somebody who sees nothing
    read_labels  the attacker reads labels from the update; otherwise it is told them
    """

    config: Config
    client: str
    cohort: int
    originals: Tensor
    labels: tuple[str, ...]
    flat: tuple[float, ...]
    read_labels: bool
    views: tuple[View, ...]


def shown(config: Config, images: int, inversion: Inversion, progress: Progress) -> Shown:
    """Attack a client that makes one step with so many images, in the first round.

    Raises:
        ConfigError, DataError, ModelError: it cannot be built as asked, or there is nothing to attack.
    """
    load_plugins(config.plugins)
    data = build_data(config, progress)
    mode = settled(config, [len(client.train) for client in data.clients])
    with TemporaryDirectory() as folder:
        experiment = build_experiment(
            _easiest(config, images), Path(folder), progress, model=None, data=_few(data, images)
        )
        if not experiment.trained:
            text = "shares nothing that is trained, so no update can be attacked; use personalization.name=none"
            raise ConfigError(
                problems.problem("incompatible", "personalization.name", text, config.personalization.name)
            )
        return _attacked(experiment, Views(experiment, mode), inversion, progress)


def _attacked(experiment: Experiment, there: Views, inversion: Inversion, progress: Progress) -> Shown:
    seen, names = list(there.all()), experiment.images.class_names
    attacker, told, views = Attacker(experiment, there.shared, inversion), progress("attacking"), []
    images = len(attacker.originals)
    for number, one in enumerate(seen):
        step = partial(_step, told, number * inversion.steps, len(seen) * inversion.steps)
        found = attacker.reconstruct(one.update, one.clients * images, step)
        labels = tuple(names[label] for label in found.labels)
        views.append(View(one.title, one.told, attacker.cosine(one.update, there.plain), found, labels))
    clients = experiment.images.clients
    return Shown(
        experiment.config,
        clients[0].name,
        len(clients),
        attacker.originals,
        tuple(names[label] for label in attacker.labels.tolist()),
        tuple(psnr(image, image.mean()) for image in attacker.originals),
        attacker.reads_labels,
        tuple(views),
    )


def _step(told: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    told(before + done, total)


def _few(data: FederatedData, images: int) -> FederatedData:
    """The first clients that have so many training images, with the first ones of each."""
    able = [client for client in data.clients if len(client.train) >= images][:COHORT]
    if not able:
        most = max((len(client.train) for client in data.clients), default=0)
        way_out = f"use --images {most}" if most else "there is nothing to attack"
        raise DataError(f"--images {images}: the largest client has {most} training images; {way_out}")
    return replace(data, clients=tuple(replace(client, train=client.train[:images]) for client in able))


def _easiest(config: Config, images: int) -> Config:
    """What makes it easiest for an attacker: one step with all images, as they are."""
    federated = config.federated.model_copy(update={"local_epochs": 1, "batch_size": images, "fraction_fit": 1.0})
    data = config.data.model_copy(update={"augment": "none"})
    optimizer = config.optimizer.model_copy(update={"mixup": 0.0})
    return config.model_copy(update={"federated": federated, "data": data, "optimizer": optimizer})


def settled(config: Config, images: Sequence[int]) -> PrivacyMode:
    """The configured mode with the noise of the whole run, drawn from the seed so that a page can be made again, and
    without what a single round cannot keep to. `images`: training images of each client.

    Raises:
        ConfigError: no noise reaches `privacy.target_epsilon`.
    """
    mode = PRIVACY.choose(config.privacy)
    federation = federation_of(config, getattr(mode, "population", None) or len(images), images)
    claim = mode.claim(federation)
    if claim is None or not isinstance(mode, ClientLevel):
        return mode
    changed: dict[str, Any] = {
        "noise_multiplier": claim.mechanism.noise_multiplier / mode.mechanism_with(1.0, federation).noise_multiplier,
        "clip": claim.clip,
        **dict.fromkeys(("first_clip", "clip_quantile", "clip_rate")),
        "target_epsilon": None,
        "budget": None,
        "population": None,
        "min_images": None,
        "insecure_seed": config.seed if mode.insecure_seed is None else mode.insecure_seed,
    }
    own = {field.name for field in fields(mode)}
    return replace(mode, **{name: value for name, value in changed.items() if name in own})
