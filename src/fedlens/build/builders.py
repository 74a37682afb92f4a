"""From sections of a configuration to plain objects, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from fedlens.aggregation.edges import Edges
from fedlens.build.against_data import check_keys_of_table
from fedlens.build.modalities import rows_of_use
from fedlens.build.secure import protocol_of, unmeasured
from fedlens.config.blocks import (
    AGGREGATION,
    AUTO,
    COMPRESSION,
    MODEL,
    OPTIMIZER,
    PERSONALIZATION,
    PRIVACY,
    PYTHON,
    SCHEME,
    SOURCE,
    STRATEGY,
)
from fedlens.config.schema import Config, DataSection, ModelSection
from fedlens.core import clean
from fedlens.data import division
from fedlens.data.base import Scheme
from fedlens.data.cache import Decoding
from fedlens.data.detect import detect
from fedlens.data.federate import federate
from fedlens.data.held_out import hold_out
from fedlens.data.modalities import take_away
from fedlens.data.types import FederatedData, ImageTable
from fedlens.errors import ConfigError
from fedlens.federation.coordinator import RunPlan
from fedlens.federation.sampling import ClientSampler, CyclicSampler, PoissonSampler, Sampler
from fedlens.models.base import ModelRequest, Preprocessing, Recognizer
from fedlens.models.build import build_model
from fedlens.models.dual_encoder import DualEncoder
from fedlens.privacy.base import Federation, groups_of
from fedlens.training.algorithm import Algorithm
from fedlens.training.learning_rate import LearningRate
from fedlens.training.settings import LocalSettings

Progress = Callable[[str], Callable[[int, int], None]]
"""A label → what is called with (done, all) while that work goes on."""

SMALL_IMAGES = 64
"""Side in pixels that images of fewer pixels are enlarged to for models made for photographs."""


def preprocessing_of(model: nn.Module, data: FederatedData) -> Preprocessing:
    """A recogniser's own, or plain x / 255 for a user's module."""
    if isinstance(model, Recognizer):
        return model.preprocessing
    return Preprocessing(image_size=max(data.sides), channels=data.channels)


def build_algorithm(config: Config) -> Algorithm:
    """Strategy, personalisation and aggregation, as configured."""
    privacy, federation = PRIVACY.choose(config.privacy), federation_of(config)
    return Algorithm(
        STRATEGY.choose(config.strategy),
        PERSONALIZATION.choose(config.personalization),
        AGGREGATION.choose(config.aggregation),
        largest_share=config.server.max_weight_share,
        directions=config.tracking.updates,
        encodings=() if config.compression.name == COMPRESSION.default else (COMPRESSION.choose(config.compression),),
        privacy=privacy.transform(federation),
        dp_sgd=privacy.dp_sgd(federation),
        edges=Edges(config.federated.edges, config.seed) if config.federated.edges else None,
    )


def build_data(config: Config, progress: Progress, *, simulated: bool = True) -> FederatedData:
    """Images of the configured source, decoded, split and dealt out. Not `simulated`: those of a server, for tests.

    Raises:
        ConfigError, DataError: they cannot be had as configured.
    """
    section = config.data
    table, source = build_table(section)
    table = rows_of_use(config, table)
    check_keys_of_table(config, table, simulated=simulated)
    data = federate(table, division_plan(config), decoding(config, table), progress("decoding images"))
    source = " ".join([source, *([str(section.path)] if section.path else [])])
    data = replace(data, report=replace(data.report, source=source))
    if simulated:
        data = hold_out(take_away(data, section.modalities, config.seed), section.held_out)
    return data.pooled() if section.partition.pooled else data


def build_table(section: DataSection) -> tuple[ImageTable, str]:
    """The images of the configured source, none of them decoded, and the source's name.

    Raises:
        ConfigError, DataError: they cannot be had as configured.
    """
    if section.source == AUTO:
        section = section.model_copy(update={"source": detect(section.path)})
    return SOURCE.choose(section).load(), section.source


def division_plan(config: Config) -> division.DivisionPlan:
    """How the images are divided among clients and splits."""
    section = config.data
    clients, seed = section.partition.clients or 10, section.partition.seed
    shares = section.validation, section.client_test, section.test
    return division.DivisionPlan(build_scheme(config), clients, *shares, config.seed, seed)


def decoding(config: Config, table: ImageTable) -> Decoding:
    """How the images of `table` are decoded."""
    section = config.data
    size = section.image_size or natural_size(config, table.native_size)
    return Decoding(size, section.on_bad_image, section.max_pixels, section.cache_dir)


def build_scheme(config: Config) -> Scheme | None:
    """The configured partition scheme; None leaves the choice to the data."""
    section = config.data.partition
    return None if section.scheme == AUTO else SCHEME.choose(section)


def natural_size(config: Config, native: int | None) -> int:
    """The model's own image size, but no more than a moderate enlargement of small images."""
    section = ModelSection() if config.model.name == PYTHON else config.model
    wanted = MODEL.choose(section).default_image_size
    return wanted if native is None else min(wanted, max(native, SMALL_IMAGES))


def build_recognizer(config: Config, data: FederatedData) -> tuple[Recognizer, tuple[str, ...]]:
    """The configured model for these images, and what is worth saying of it.

    Raises:
        ConfigError: the data has more labels than `model.num_classes`.
    """
    section, labels = config.model, len(data.class_names)
    classes = section.num_classes or labels
    if labels > classes:
        raise ConfigError(
            f"model.num_classes={classes}, but the data has {labels} labels: use model.num_classes={labels} or "
            "leave it out",
            code="incompatible",
            key="model.num_classes",
        )
    request = ModelRequest(
        num_classes=classes,
        image_size=max(data.sides),
        image_channels=data.channels,
        pretrained=section.pretrained,
        weights=section.weights,
        class_names=data.class_names,
    )
    model = build_model(
        MODEL.choose(section), request, frozen=section.freeze, norm=section.norm, lora=section.lora, seed=config.seed
    )
    if data.images.is_floating_point() or data.sides[0] != data.sides[1]:
        _check_images(model, data, section.name)
    unused = f"model.num_classes={classes}, the data has {labels} labels: the other outputs stay unused"
    return model, tuple(filter(None, (unused if labels < classes else "", _cut(model, data))))


def _cut(model: Recognizer, data: FederatedData) -> str:
    """A line if the model does not read the names of some classes to their end."""
    held_out = data.held_out.class_names if data.held_out else ()
    return model.note_of_cut([*data.class_names, *held_out]) if isinstance(model, DualEncoder) else ""


def _check_images(model: Recognizer, data: FederatedData, name: str) -> None:
    """Try the model on one image: data from Python may have any shape.

    Raises:
        ConfigError: the model does not take such images.
    """
    height, width = data.sides
    what = f"float tensors of shape {tuple(data.images.shape[1:])}"
    if not data.images.is_floating_point():
        what = f"images of {height} × {width} pixels"
    way_out = "crop or convert them in the data set's transform, or give a model of your own: model="
    if data.images.ndim != 4:
        raise ConfigError(
            f"model.name={name!r} takes float images of shape (C, H, W), not {what}; {way_out}",
            code="incompatible",
            key="model.name",
        )
    model.eval()
    try:
        with torch.inference_mode():
            model(model.prepare(data.images[:1]))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = clean.line(str(error).partition("\n")[0], 200)
        raise ConfigError(
            f"model.name={name!r} does not take {what} ({reason}); {way_out}", code="incompatible", key="model.name"
        ) from error
    model.train()


def check_precision(config: Config, device: torch.device) -> None:
    if config.memory.precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "memory.precision='fp16' needs a GPU, and this run is on the CPU: use bf16 or fp32",
            code="unavailable",
            key="memory.precision",
        )


def local_settings(config: Config) -> LocalSettings:
    """The part of the configuration that local training sees."""
    federated, optimizer = config.federated, OPTIMIZER.choose(config.optimizer)
    return LocalSettings(
        federated.local_epochs, federated.batch_size, optimizer, config.optimizer, config.memory, config.seed
    )


def build_plan(config: Config) -> RunPlan:
    """Rounds, cohorts, learning rate and the end of a run."""
    federated, privacy = config.federated, PRIVACY.choose(config.privacy)
    return RunPlan(
        num_rounds=federated.num_rounds,
        sampler=build_sampler(config),
        lr=LearningRate(config.optimizer, federated.num_rounds).at,
        evaluate_every=federated.evaluate_every,
        evaluate_clients_every=0 if unmeasured(config) else federated.evaluate_clients_every,
        quorum=federated.quorum if privacy.cohorts == "fixed" else 0,
        stopping=config.stopping,
        protocol=protocol_of(config),
        leave_one_out=config.tracking.leave_one_out,
    )


def federation_of(config: Config, clients: int = 0, images: Sequence[int] = ()) -> Federation:
    """What a claim of privacy depends on, beside the mode's own keys. `clients`: all that may take part, and `images`:
    training images of each, if known."""
    federated = config.federated
    return Federation(
        clients,
        federated.num_rounds,
        federated.fraction_fit,
        federated.batch_size,
        federated.local_epochs,
        tuple(images),
    )


def build_sampler(config: Config) -> Sampler:
    """How cohorts are drawn: as Flower does, or as a claim of privacy needs it."""
    federated, privacy = config.federated, PRIVACY.choose(config.privacy)
    if privacy.cohorts == "poisson":
        return PoissonSampler(federated.fraction_fit, config.seed, privacy.insecure_seed)
    if privacy.cohorts == "cyclic":
        return CyclicSampler(groups_of(federated.fraction_fit), config.seed)
    return ClientSampler(federated.fraction_fit, federated.min_fit_clients, config.seed, federated.over_selection)
