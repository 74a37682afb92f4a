"""The runs that say whether federating helps: the federation, each client alone, and everything in one place.

All make as many steps. Alone, a client trains in the rounds in which the federation would have asked it. One place for
everything sees as many images a round as one client holds, so its rounds are the federation's times the share of
clients in a round: as many images in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlens.build.builders import Progress, build_data
from fedlens.build.load import load
from fedlens.config.schema import Config
from fedlens.data.types import FederatedData
from fedlens.errors import ConfigError
from fedlens.sweeps.points import Point

LOCAL, FEDERATION, TUNED, CENTRAL = "local", "federation", "fine-tuned", "central"
MODELS = (LOCAL, FEDERATION, TUNED, CENTRAL)

OF_THE_FEDERATION = (
    *("strategy", "personalization", "aggregation", "compression", "privacy", "attack", "schedule", "clock"),
    "stopping",
)
"""Sections that say nothing about training alone or in one place."""


@dataclass(frozen=True)
class Trio:
    """The three runs of a seed. images: divided among the clients as in the federation. The run of the federation fine-
    tunes its model at home, so it gives two models; with a personalization of its own it does not."""

    seed: int
    images: FederatedData
    federation: Point
    local: Point
    central: Point

    @property
    def points(self) -> tuple[Point, Point, Point]:
        return self.federation, self.local, self.central

    @property
    def personal(self) -> str:
        """What the model is called that a client of the federation uses."""
        name = self.federation.config.personalization.name
        return TUNED if name == "finetune" else name


def trios(path: Path | None, overrides: Sequence[str], seeds: int, folder: str, progress: Progress) -> list[Trio]:
    """The runs for the configuration's seed and those after it; they lie in `folder`, inside tracking.dir. progress:
    of decoding the images.

    Raises:
        ConfigError: a configuration is invalid, or there is nothing to compare on.
        DataError: the images cannot be read.
    """
    first = load(path, overrides, use="run")
    later = range(first.seed, first.seed + seeds)
    return [_trio(load(first, (), {"seed": seed}, use="run"), folder, progress) for seed in later]


def _trio(config: Config, folder: str, progress: Progress) -> Trio:
    images = build_data(config, progress)
    check(config, images)
    clients = len(images.clients)
    share = max(int(config.federated.fraction_fit * clients), config.federated.min_fit_clients) / clients
    tuned = {"personalization.name": "finetune"} if config.personalization.name == "none" else {}
    pooled = {
        "data.partition.pooled": True,
        "federated.fraction_fit": 1.0,
        "federated.min_fit_clients": 1,
        "federated.quorum": 1,
        "federated.num_rounds": max(round(config.federated.num_rounds * share), 1),
    }
    equal = config.model_copy(update={"stopping": Config().stopping})
    alone = config.model_copy(update={section: getattr(Config(), section) for section in OF_THE_FEDERATION})
    return Trio(
        config.seed,
        images,
        _point(FEDERATION, equal, tuned, folder),
        _point(LOCAL, alone, {"personalization.name": "local"}, folder),
        _point(CENTRAL, alone, pooled, folder),
    )


def check(config: Config, images: FederatedData) -> None:
    """Raises ConfigError: there is one client, no client has test images, the federation is none, or its steps cannot
    be counted."""
    if config.personalization.name == "local":
        raise ConfigError(
            "personalization.name = local: every client trains alone, which is what the federation is compared with; "
            "leave it out",
            code="contradiction",
            key="personalization.name",
        )
    if config.schedule.name != Config().schedule.name:
        raise ConfigError(
            f"schedule.name = {config.schedule.name}: clients make steps of their own number, so training alone cannot "
            "be made to have as many; schedule.name=sync",
            code="incompatible",
            key="schedule.name",
        )
    if config.data.partition.pooled or len(images.clients) < 2:
        raise ConfigError(
            "data.partition: has one client, and a federation is of several: give data.partition.clients=4, or a "
            "folder for each client",
            code="incompatible",
            key="data.partition",
        )
    if not any(len(client.test) for client in images.clients):
        raise ConfigError(
            f"data.client_test = {config.data.client_test:g}: no client has test images of its own, so what it gains "
            "cannot be told; data.client_test=0.2",
            code="incompatible",
            key="data.client_test",
        )


def _point(name: str, config: Config, changes: Mapping[str, Any], folder: str) -> Point:
    found = load(config, (), changes, use="run")
    label = f"{name} seed={config.seed}"
    place = {"dir": found.tracking.dir / folder, "name": label}
    return Point(label, found.model_copy(update={"tracking": found.tracking.model_copy(update=place)}))
