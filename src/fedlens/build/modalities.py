"""Models that take images and texts: what they need of the data, and what does not go with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import nn

from fedlens.config.blocks import AGGREGATION, MODEL, PRIVACY, PYTHON, STRATEGY, find, reads_texts
from fedlens.config.schema import Config
from fedlens.data.cache_dir import default_cache_dir
from fedlens.data.modalities import complete_clients, perhaps_without_texts, without_images
from fedlens.data.types import FederatedData, ImageTable
from fedlens.data.unlabelled import pairs_alone, without_unlabelled
from fedlens.errors import Problem
from fedlens.models.base import Recognizer
from fedlens.models.dual_encoder import Contrastive
from fedlens.models.freezing import BACKBONE
from fedlens.models.text_readers import Progress, TextReader
from fedlens.training.algorithm import Algorithm
from fedlens.training.texts import read_texts

Refuse = Callable[[str, str], Problem]
"""(a section's own key, what is wrong with its value) → the problem."""


def images_and_texts(config: Config, refuse: Refuse) -> Iterator[Problem]:
    """A problem for each setting that does not go with the modalities of the model."""
    if reads_texts(config.model):
        yield from _one_tensor(config, refuse)
        yield from _trained_before(config, refuse)
        if config.federated.missing_modalities == "by_part":
            yield from _weighed(config, refuse)


def _one_tensor(config: Config, refuse: Refuse) -> Iterator[Problem]:
    """What works with images as one tensor."""
    because = f"works with images alone, and model {config.model.name} takes texts as well"
    if config.optimizer.mixup:
        yield refuse("optimizer.mixup", f"{because}; leave it out")
    if config.model.freeze == BACKBONE:
        yield refuse(
            "model.freeze",
            f"{because}; freeze a number of stages, or the modules up to one: model.freeze=backbone.image",
        )
    if config.model.lora.rank:
        yield refuse("model.lora.rank", f"{because}; leave it out")
    if PRIVACY.choose(config.privacy).by_image:
        yield refuse("privacy.mode", f"{because}; use privacy.mode=central or local")


def _trained_before(config: Config, refuse: Refuse) -> Iterator[Problem]:
    """What tunes a part of a trained model."""
    builder = MODEL.choose(config.model)
    if not isinstance(builder, Contrastive) or builder.tune == "all":
        return
    if builder.learns == "pairs":
        yield refuse("model.learns", f"model.tune={builder.tune} learns from labels; leave it out")
    if config.model.weights is None and not (config.model.pretrained and builder.published_whole):
        text = "trains a small part of a model that is trained, and there is none: name its file, model.weights="
        yield refuse("model.tune", f"{text}logs/<run>/model/model.safetensors, or use model.tune=all")


def _weighed(config: Config, refuse: Refuse) -> Iterator[Problem]:
    """What needs one weight for the whole update."""
    strategy = find(STRATEGY, config.strategy.name).factory
    found = {
        "strategy.name": strategy.needs_own_weights or strategy.weighs_parts,
        "aggregation.name": not find(AGGREGATION, config.aggregation.name).factory.linear,
        "privacy.mode": PRIVACY.choose(config.privacy).protects,
        "privacy.secure_aggregation": config.privacy.secure_aggregation,
        "server.max_weight_share": config.server.max_weight_share is not None,
    }
    for key in (key for key, present in found.items() if present):
        section, _, name = key.partition(".")
        value = getattr(getattr(config, section), name)
        text = f"weighs image and text part one by one, and {key}={value} needs one weight"
        yield refuse("federated.missing_modalities", f"{text}; use federated.missing_modalities=average")


def for_model(config: Config, data: FederatedData, progress: Progress) -> FederatedData:
    """`data` as the model takes it: with texts read for it, or without rows that have no image.

    Raises:
        DataError: the data has no texts, which the model needs; or nothing is left to train on.
    """
    reader = _reader(config)
    if reader is None:
        return without_images(data)
    import tensordict  # noqa: F401 - what batches are made of: imported here, worker processes that are forked have it

    data = pairs_alone(data) if _learns_pairs(config) else data
    if _learns_from_labels(config):
        data = perhaps_without_texts(data)
    if config.federated.missing_modalities == "drop_clients":
        data = complete_clients(data)
    data = replace(data, report=replace(data.report, unit="row"))
    return read_texts(data, reader, (config.data.cache_dir or default_cache_dir()) / "texts", progress)


def rows_of_use(config: Config, table: ImageTable) -> ImageTable:
    """`table`; without rows that have no label, unless the model learns from pairs.

    Raises:
        DataError: nothing is left.
    """
    return table if _learns_pairs(config) else without_unlabelled(table)


def _learns_pairs(config: Config) -> bool:
    """Whether rows without a label train the model. What a strategy adds to the loss, or measures, may need labels."""
    strategy = find(STRATEGY, config.strategy.name).factory
    if config.model.name == PYTHON or strategy.needs_labels or strategy.needs_loss:
        return False
    builder = MODEL.choose(config.model)
    return isinstance(builder, Contrastive) and builder.learns_pairs


def _learns_from_labels(config: Config) -> bool:
    """Whether the names of the classes are all the texts that the model needs."""
    builder = MODEL.choose(config.model)
    return isinstance(builder, Contrastive) and not builder.learns_pairs


def reader_key(config: Config) -> str:
    """What identifies how the model reads texts; "" where it takes images alone.

    Raises:
        ModelError: its package is not installed.
    """
    reader = _reader(config)
    return "" if reader is None else reader.key


def _reader(config: Config) -> TextReader | None:
    return None if config.model.name == PYTHON else MODEL.choose(config.model).text_reader()


def weighing_parts(config: Config, algorithm: Algorithm, model: nn.Module) -> Algorithm:
    """`algorithm`, which weighs the parts of `model` that learn from one modality by themselves where that is asked."""
    if config.federated.missing_modalities != "by_part" or not isinstance(model, Recognizer):
        return algorithm
    return replace(algorithm, parts=model.parts)
