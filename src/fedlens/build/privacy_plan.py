"""The privacy that a configuration will claim, without decoding an image or training anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlens.build.builders import build_algorithm, build_table, decoding, division_plan, federation_of
from fedlens.build.experiment import shared_model
from fedlens.build.modalities import rows_of_use
from fedlens.build.privacy import build_claim
from fedlens.config import problems
from fedlens.config.blocks import MODEL, PRIVACY
from fedlens.config.plugins import load_plugins
from fedlens.config.schema import Config
from fedlens.data.division import Columns, divide
from fedlens.data.types import ImageTable
from fedlens.errors import ConfigError
from fedlens.models.base import ModelRequest
from fedlens.models.build import build_model
from fedlens.privacy.accounting import noise_for
from fedlens.privacy.client_level import ClientLevel
from fedlens.privacy.plan import Plan, plan
from fedlens.privacy.release import Claim


@dataclass(frozen=True)
class PlannedRun:
    """coordinates: numbers in an update. noise_multiplier: σ as `privacy.noise_multiplier` means it. lasting: σ with
    which the budget would last for all rounds, where it does not."""

    config: Config
    claim: Claim
    plan: Plan
    coordinates: int
    noise_multiplier: float
    lasting: float | None

    @property
    def rounds(self) -> int:
        return self.config.federated.num_rounds

    @property
    def loudness(self) -> float:
        """Length of the noise in a round's mean update, divided by the longest that the mean can be."""
        return self.claim.loudness(self.coordinates)

    @property
    def loudness_in_all(self) -> float:
        """The same of the sum over all rounds."""
        mechanism = self.claim.mechanism
        if not mechanism.noise_multiplier:
            return 0.0
        return self.loudness * mechanism.deviation(self.rounds) / mechanism.deviation(1) / self.rounds


def planned(config: Config, clients: int | None = None) -> PlannedRun:
    """What the run will claim. `clients`: all that may take part; None: those of the configuration or its data.

    Raises:
        ConfigError, DataError, ModelError: the mode claims nothing, or the run cannot be built as asked.
    """
    load_plugins(config.plugins)
    mode = PRIVACY.choose(config.privacy)
    if not isinstance(mode, ClientLevel):
        text = "claims no ε, so there is nothing to plan; use privacy.mode=central"
        raise ConfigError(problems.problem("incompatible", "privacy.mode", text, config.privacy.mode))
    if clients is not None and config.privacy.parameters.get("population") is not None:
        text = f"--clients {clients}: privacy.population says how many clients there are; leave one of them out"
        raise ConfigError(text, code="contradiction", key="--clients")
    table = rows_of_use(config, build_table(config.data)[0])
    images = () if clients else _images(config, table)
    claim = build_claim(config, clients or len(images), images)
    assert claim is not None
    rounds = config.federated.num_rounds
    costs = plan(claim.mechanism, rounds, claim.delta, claim.budget)
    federation = federation_of(config, claim.population, images)
    unit = mode.mechanism_with(1.0, federation).noise_multiplier
    lasting = None
    if claim.budget is not None and costs.affordable < rounds:
        lasting = noise_for(
            claim.budget, claim.delta, lambda sigma: mode.mechanism_with(sigma, federation).releases(rounds)
        )
    return PlannedRun(
        config, claim, costs, _coordinates(config, table), claim.mechanism.noise_multiplier / unit, lasting
    )


def _images(config: Config, table: ImageTable) -> tuple[int, ...]:
    """Training images of each client of a simulation."""
    division = divide(Columns.of(table, np.arange(len(table.labels))), division_plan(config))
    return tuple(len(client.train) for client in division.clients)


def _coordinates(config: Config, table: ImageTable) -> int:
    """How many numbers an update has: the parameters that are trained and shared."""
    section = config.model
    request = ModelRequest(
        num_classes=section.num_classes or len(table.class_names),
        image_size=decoding(config, table).image_size,
        image_channels=table.channels,
        class_names=table.class_names,
    )
    model = build_model(
        MODEL.choose(section), request, frozen=section.freeze, norm=section.norm, lora=section.lora, seed=config.seed
    )
    private = shared_model(build_algorithm(config), model).private
    return sum(value.numel() for name, value in model.named_parameters() if value.requires_grad and name not in private)
