"""Everything that a run needs, built from its configuration."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fedlens.attacks.none import NoAttack
from fedlens.attacks.plan import AttackPlan, malicious_clients
from fedlens.build.builders import (
    Progress,
    build_algorithm,
    build_data,
    build_recognizer,
    check_precision,
    local_settings,
    preprocessing_of,
)
from fedlens.build.checks import check_compatible
from fedlens.build.modalities import for_model, weighing_parts
from fedlens.build.secure import unmeasured
from fedlens.build.vectorized import together
from fedlens.config import problems
from fedlens.config.blocks import ATTACK, PRIVACY, SCHEDULE
from fedlens.config.plugins import load_plugins
from fedlens.config.schema import Config
from fedlens.core.client_store import ClientStore
from fedlens.core.seeds import SeedFunction, derive
from fedlens.data.augment import augmentation
from fedlens.data.cache_dir import default_cache_dir
from fedlens.data.display_names import display_names
from fedlens.data.modalities import kind_of
from fedlens.data.types import FederatedData
from fedlens.errors import ConfigError
from fedlens.models.base import Recognizer, prepare
from fedlens.models.checkpointing import enable_gradient_checkpointing
from fedlens.models.size import size_of
from fedlens.schedules.base import Asynchronous
from fedlens.secure_aggregation.registered import NO_KEYS, RegisteredKeys
from fedlens.strategies.base import SharedModel
from fedlens.training.algorithm import Algorithm
from fedlens.training.client import ClientTrainer
from fedlens.training.device import resolve_device
from fedlens.training.features import FEATURES_BATCH, after_frozen
from fedlens.training.flat import FlatModel


@dataclass(frozen=True)
class Experiment:
    """The built parts of a run, as plain data. `build.scoring` evaluates it.

    folder      the run's
    model       the whole model, as it is saved
    resident    what is trained: the model, or its head alone when the backbone is frozen and its features are cached
    train_data  what `resident` is trained on: images, or features
    images      the images themselves
    display     class → its name for people; empty: its own
    """

    config: Config
    folder: Path
    device: torch.device
    images: FederatedData
    train_data: FederatedData
    model: nn.Module
    resident: FlatModel
    algorithm: Algorithm
    trainer: ClientTrainer
    configured: bool
    """The model is the configuration's, not a user's own module."""
    notes: tuple[str, ...] = ()
    display: Mapping[str, str] = field(default_factory=dict)

    def shown(self, class_name: str) -> str:
        """The name of a class in report and pictures."""
        return self.display.get(class_name, class_name)

    @property
    def classes(self) -> int:
        return len(self.train_data.class_names)

    @property
    def holdings(self) -> str:
        """SHA-256 of how many images of which class each client holds, wherever the images are stored."""
        held = self.train_data.holdings
        names = (client.name for client in self.train_data.clients)
        counts = list(zip(names, *held.counts.values(), held.unlabelled, strict=True))
        return hashlib.sha256(repr((self.train_data.class_names, counts)).encode()).hexdigest()

    @property
    def shared(self) -> dict[str, Tensor]:
        """A copy of what travels, as the model stands: in main memory, where the server's half is, and rows in order,
        as files and messages have them, so that neither makes a copy of its own."""
        state = self.resident.state()
        return {name: value.cpu().contiguous() for name, value in state.items() if name in self.trainer.shared}

    @property
    def trained(self) -> frozenset[str]:
        """Names of what travels and is trained."""
        return self.resident.trainable & self.trainer.shared

    @property
    def partly_private(self) -> bool:
        """Parts of the model stay with the clients, so there is no shared model of all parts."""
        return self.trainer.shared != self.resident.names

    @property
    def whole_model(self) -> int | None:
        """Bytes of the model without adapters, where less than that travels."""
        whole = size_of(self.model)
        travelling = sum(value.nbytes for value in self.shared.values())
        return whole if travelling < whole else None

    @property
    def protected(self) -> bool:
        """What clients report of their images stays with them."""
        return PRIVACY.choose(self.config.privacy).protects

    @property
    def unmeasured(self) -> bool:
        """Nothing is measured of single clients and on their images."""
        return unmeasured(self.config)

    @property
    def modality_groups(self) -> dict[str, str]:
        """Client → image_only, text_only or both, where the model takes texts."""
        data = self.train_data
        if data.text_inputs is None:
            return {}
        return {client.name: kind_of(data, client).replace(" ", "_") for client in data.clients}

    @property
    def malicious(self) -> frozenset[str]:
        """The clients that attack."""
        return frozenset(self.algorithm.attack_plan.malicious) if self.algorithm.attack_plan else frozenset()


def build_experiment(
    config: Config,
    run_folder: Path,
    progress: Progress,
    *,
    model: nn.Module | None,
    data: FederatedData | None,
    secret: SeedFunction = derive,
    registered: RegisteredKeys = NO_KEYS,
) -> Experiment:
    """Build everything that `config` names. `model` and `data` replace the configured ones; `secret` makes the seeds of
    draws that the server must not foretell; `registered`: a site's keys for secure aggregation.

    Raises:
        ConfigError, DataError, ModelError: it cannot be built as asked.
    """
    load_plugins(config.plugins)
    device = resolve_device(config.runtime.device)
    check_precision(config, device)
    algorithm = build_algorithm(config)
    images = for_model(config, data or build_data(config, progress), progress("reading texts"))
    configured = model is None
    model, notes = (model, ()) if model is not None else build_recognizer(config, images)
    check_compatible("personalization", algorithm.personalization, model)
    if config.memory.gradient_checkpointing:
        save_activations(config, model)
    algorithm = weighing_parts(config, algorithm, model)
    check_compatible("strategy", algorithm.strategy, shared_model(algorithm, model))
    part, train_data = trained_part(config, model, images, device, progress)
    attack_plan = build_attack_plan(config, train_data)
    if attack_plan is not None:
        algorithm = replace(algorithm, attack_plan=attack_plan)
        images = replace(
            images, report=replace(images.report, notes=(*images.report.notes, who_attacks(config, attack_plan)))
        )
    resident = FlatModel(part, device, channels_last=config.memory.channels_last)
    trainer = ClientTrainer(
        resident,
        train_data,
        algorithm,
        local_settings(config),
        ClientStore(run_folder / "clients", keep=kept_versions(config)),
        partial(prepare, how=preprocessing_of(model, images)),
        augmentation(config.data.augment),
        config.transfer,
        secret,
        registered,
        vectorize=together(config),
        graph=config.runtime.graph,
    )
    return Experiment(
        config, run_folder, device, images, train_data, model, resident, algorithm, trainer, configured, notes
    )


def with_display_names(experiment: Experiment) -> Experiment:
    """`experiment` with the names that `tracking.names` asks for: of all classes, also those held out.

    Raises:
        ConfigError: as `display_names`.
    """
    asked, data = experiment.config.tracking.names, experiment.images
    if asked is None:
        return experiment
    held_out = data.held_out.class_names if data.held_out else ()
    return replace(experiment, display=display_names(asked, (*data.class_names, *held_out), "tracking.names"))


def save_activations(config: Config, model: nn.Module) -> None:
    """Turn gradient checkpointing on.

    Raises:
        ConfigError: the model has no blocks whose activations could be computed again.
    """
    if not isinstance(model, Recognizer) or not enable_gradient_checkpointing(model):
        text = f"model {config.model.name} has no blocks to compute again; leave it out"
        raise ConfigError(problems.problem("incompatible", "memory.gradient_checkpointing", text, True))


def kept_versions(config: Config) -> int:
    """Versions of its private tensors that a client keeps: an asynchronous step may count several of its updates."""
    schedule = SCHEDULE.choose(config.schedule)
    updates = schedule.buffer(schedule.concurrency or sys.maxsize) if isinstance(schedule, Asynchronous) else 1
    return (config.tracking.keep_checkpoints + 2) * updates


def build_attack_plan(config: Config, data: FederatedData) -> AttackPlan | None:
    """Which clients attack, and how; None where nobody does.

    Raises:
        ConfigError: the share of malicious clients is less than one client, or the attack does not go with the images.
    """
    section, clients = config.attack, [client.name for client in data.clients]
    attack = ATTACK.choose(section)
    if isinstance(attack, NoAttack):
        return None
    malicious = malicious_clients(clients, section.fraction, config.seed)
    if not malicious:
        text = (
            f"of {len(clients)} clients that is less than one: nobody attacks; use attack.name=none, or a larger share"
        )
        raise ConfigError(problems.problem("incompatible", "attack.fraction", text, section.fraction))
    check_compatible("attack", attack, data)
    return AttackPlan(attack, malicious, len(data.class_names), config.seed)


def who_attacks(config: Config, attack_plan: AttackPlan) -> str:
    names, many = ", ".join(sorted(attack_plan.malicious)), len(attack_plan.malicious)
    return f"attack {config.attack.name}: {many} {'client is' if many == 1 else 'clients are'} malicious ({names})"


def shared_model(algorithm: Algorithm, model: nn.Module) -> SharedModel:
    personal = algorithm.personalization
    private = {name for name, _ in model.named_parameters() if personal.is_private(name, model)}
    return SharedModel(model, frozenset(private))


def trained_part(
    config: Config, model: nn.Module, data: FederatedData, device: torch.device, progress: Progress
) -> tuple[nn.Module, FederatedData]:
    """What is trained, and on what: what is frozen runs once over every image, then only the rest trains; unless
    training changes the images."""
    patched = ATTACK.choose(config.attack).trigger() is not None
    changing = config.data.augment != "none" or config.optimizer.mixup > 0 or patched
    if config.model.freeze == "none" or changing or not isinstance(model, Recognizer):
        return model, data
    cache = (config.data.cache_dir or default_cache_dir()) / "features"
    return after_frozen(
        model,
        data,
        device=device,
        cache_dir=cache,
        batch_size=config.memory.micro_batch or FEATURES_BATCH,
        progress=progress("computing features"),
    )
