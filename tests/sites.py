"""A site of its own small images, and what a server tells it."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.photos import CLASSES, photos

from fedlens.build.load import load
from fedlens.config.site import load_site
from fedlens.core.types import Task, TaskSettings
from fedlens.flower.messages import Refusal, Setup
from fedlens.flower.site import TrainingSite
from fedlens.tracking.observer import Silent

RUN = {
    "model": {"name": "lenet"},
    "federated": {"num_rounds": 3, "local_epochs": 2, "batch_size": 8},
    "data": {"validation": 0.2, "client_test": 0.2},
}


def setup(class_names=CLASSES, run: str = "run-1", **changes) -> Setup:
    """What a server tells, with all of its configuration."""
    sections = {section: {**RUN.get(section, {}), **values} for section, values in changes.items()}
    config = load(None, (), {**RUN, **sections}).model_dump(mode="json")
    return Setup(run, json.loads(json.dumps(config)), tuple(class_names), 28, 3)


class Place:
    """A site's folders, and what it said."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.images = photos(folder / "photos", each=10)
        (folder / "state").mkdir()

    def config(self, *overrides: str, images=None):
        given = [f"data_dir={images or self.images}", f"state_dir={self.folder / 'state'}", "device=cpu", "threads=1"]
        return load_site(None, [*given, *overrides])

    def site(self, *overrides: str, images=None) -> TrainingSite:
        return TrainingSite(self.config(*overrides, images=images), self.said.append, Silent().progress)


def task(site: TrainingSite, told: Setup, **changes) -> Task:
    """The first round's task, with the model that the site itself would build."""
    site.prepare(told)
    state = site._experiment(told).resident.state()
    return replace(Task("client1", 1, "train", state, TaskSettings(lr=0.05)), **changes)


def refused(outcome) -> str:
    assert isinstance(outcome, Refusal), outcome
    assert "\n" not in outcome.reason
    return outcome.reason
