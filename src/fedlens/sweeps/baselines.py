"""The runs that say whether federating helps: the federation, each client alone, and everything in one place.

Alone, a client makes as many steps as in the federation, in the rounds in which a federation without privacy would
have asked it. One place for everything makes as many passes over all images as a client makes over its own, so as many
steps as all clients together: its rounds are the federation's times the share of clients in a round.

Clients are compared by name over the seeds, so the division is the same for all of them where it is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlens.build.builders import Progress, build_data, build_plan
from fedlens.build.load import load
from fedlens.config.schema import Config
from fedlens.data.base import described
from fedlens.data.partition.natural import Natural
from fedlens.data.types import FederatedData
from fedlens.errors import ConfigError
from fedlens.sweeps.points import Point, placed

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
    division = _division(first, build_data(first, progress))
    later = range(first.seed, first.seed + seeds)
    return [_trio(load(first, (), {"seed": seed, **division}, use="run"), folder, progress) for seed in later]


def _division(config: Config, images: FederatedData) -> dict[str, int]:
    """What keeps a drawn division the same with every seed."""
    section = config.data.partition
    if section.seed is not None or images.report.scheme == described(Natural()):
        return {}
    return {"data.partition.seed": config.seed}


def _trio(config: Config, folder: str, progress: Progress) -> Trio:
    images = build_data(config, progress)
    check(config, images)
    share = build_plan(config).sampler.expected(len(images.clients)) / len(images.clients)
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
    if config.attack.name != "none":
        raise ConfigError(
            f"attack.name = {config.attack.name}: the sites that gain or lose would be attackers, too; leave it out",
            code="contradiction",
            key="attack.name",
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
    return Point(label, placed(found, dir=found.tracking.dir / folder, name=label))
