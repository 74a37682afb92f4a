"""Parts of an algorithm that do not go together, whatever the data and the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import TypeVar

from fedlens.aggregation.base import AggregationRule
from fedlens.build.modalities import images_and_texts
from fedlens.build.secure import secure_mismatches, unmeasured
from fedlens.config import problems
from fedlens.config.blocks import (
    AGGREGATION,
    ATTACK,
    COMPRESSION,
    MODEL,
    OPTIMIZER,
    PERSONALIZATION,
    PRIVACY,
    PYTHON,
    SCHEDULE,
    STRATEGY,
    find,
)
from fedlens.config.schema import Config
from fedlens.core.registry import Checked
from fedlens.errors import ConfigError, ModelError, Problem
from fedlens.personalization.base import Personalization
from fedlens.schedules.base import Asynchronous
from fedlens.strategies.base import Strategy
from fedlens.training.optimizers.sgd import SGD

Given = TypeVar("Given")


def unknown_architecture(config: Config, where: Callable[[str], str]) -> Iterator[Problem]:
    """A problem where a library has no such model: said before any image is read."""
    if config.model.name == PYTHON:
        return
    try:
        MODEL.choose(config.model).check()
    except ModelError as error:
        yield problems.problem("unknown_name", "model.name", str(error), config.model.name, where("model.name"))


def mismatches(config: Config, where: Callable[[str], str]) -> Iterator[Problem]:
    """A problem for each two parts of the algorithm whose mathematics do not go together. All their names are known."""
    refuse = refusals(config, where)
    strategy = find(STRATEGY, config.strategy.name).factory
    personal = find(PERSONALIZATION, config.personalization.name).factory
    rule = find(AGGREGATION, config.aggregation.name).factory
    counts = f"strategy {config.strategy.name} counts on"
    yield from _local_training(config, strategy, personal, refuse)
    if (strategy.needs_mean or strategy.weighs_parts) and not rule.linear:
        yield refuse("aggregation.name", f"{counts} the weighted mean of the updates; use aggregation.name=mean")
    if config.server.max_weight_share is not None and strategy.weighs_parts:
        text = f"strategy {config.strategy.name} gives each part of the model its own weight; leave it out"
        yield refuse("server.max_weight_share", text)
    if config.aggregation.parameters.get("weights") and (strategy.needs_own_weights or strategy.weighs_parts):
        text = f"strategy {config.strategy.name} weighs updates as its mathematics need it; leave it out"
        value = str(config.aggregation.parameters["weights"])
        key = "aggregation.weights"
        yield problems.problem("contradiction", key, text, value, where(key))
    yield from images_and_texts(config, refuse)
    if not find(COMPRESSION, config.compression.name).factory.dense:
        yield from _parts_of_updates(config, strategy, rule, refuse)
    if not personal.shares:
        yield from _nothing_shared(config, where)
    privacy = PRIVACY.choose(config.privacy)
    if contradiction := privacy.contradiction():
        yield problems.incompatible("privacy", contradiction)
    if privacy.protects:
        yield from protected(config, strategy, refuse, where)
        yield from by_image(config, strategy, personal, refuse) if privacy.by_image else summed(config, refuse)
    yield from secure_mismatches(config, refuse)
    yield from _edges(config, rule, where)
    yield from _cross_site(config, where)
    schedule = SCHEDULE.choose(config.schedule)
    if isinstance(schedule, Asynchronous):
        yield from asynchronous(config, schedule, strategy, rule, where)


def _local_training(
    config: Config, strategy: type[Strategy], personal: type[Personalization], refuse: Callable[[str, str], Problem]
) -> Iterator[Problem]:
    """What a strategy assumes of the clients' steps."""
    counts = f"strategy {config.strategy.name} counts on"
    optimizer = OPTIMIZER.choose(config.optimizer)
    if strategy.needs_sgd and not isinstance(optimizer, SGD):
        yield refuse("optimizer.name", f"{counts} local steps of SGD; use optimizer.name=sgd")
    if strategy.needs_labels and config.optimizer.mixup:
        yield refuse("optimizer.mixup", f"{counts} one label for each row, and mixup gives it two; leave it out")
    if strategy.needs_sgd and not personal.steps_only:
        text = f"its updates are more than local steps, and {counts} those alone; use strategy.name=fedavg"
        yield refuse("personalization.name", text)
    if strategy.needs_sgd and config.transfer.layer_decay != 1:
        yield refuse("transfer.layer_decay", f"{counts} one learning rate for all parameters; leave it at 1")
    if strategy.needs_sgd and config.optimizer.keep and optimizer.has_state:
        yield refuse("optimizer.keep", f"{counts} momentum that starts at zero in every round; leave it out")


def _cross_site(config: Config, where: Callable[[str], str]) -> Iterator[Problem]:
    """A client's own model tells more of its images than what these let out."""
    if config.federated.cross_site and unmeasured(config):
        key = "federated.cross_site"
        text = "gives clients' models to each other, which privacy.mode and secure aggregation prevent; leave it out"
        yield problems.problem("contradiction", key, text, True, where(key))


def _edges(config: Config, rule: type[AggregationRule], where: Callable[[str], str]) -> Iterator[Problem]:
    """What needs more than the sums that edges send."""
    if not config.federated.edges:
        return
    single = {
        f"aggregation.name={config.aggregation.name}": not rule.linear,
        "server.max_weight_share": config.server.max_weight_share is not None,
        "tracking.leave_one_out": bool(config.tracking.leave_one_out),
        f"schedule.name={config.schedule.name}": isinstance(SCHEDULE.choose(config.schedule), Asynchronous),
        "privacy.secure_aggregation": config.privacy.secure_aggregation,
    }
    for what in (what for what, needs_single in single.items() if needs_single):
        key, text = "federated.edges", f"{what} needs every client's update at the server; leave one of the two out"
        yield problems.problem("incompatible", key, text, config.federated.edges, where(key))


def _parts_of_updates(
    config: Config, strategy: type[Strategy], rule: type[AggregationRule], refuse: Callable[[str, str], Problem]
) -> Iterator[Problem]:
    """What needs whole updates in their own scale."""
    because = f"compression {config.compression.name} sends a part of each update"
    if not rule.linear:
        yield refuse("aggregation.name", f"compares whole updates, and {because}; use aggregation.name=mean")
    if strategy.largest_extras is not Strategy.largest_extras:
        yield refuse("strategy.name", f"counts on whole updates, and {because}; use compression.name=half or quantize")


def _nothing_shared(config: Config, where: Callable[[str], str]) -> Iterator[Problem]:
    """What would have no effect where clients send nothing of their models."""
    because = f"personalization.name={config.personalization.name} shares nothing, so it has no effect"
    if edges := config.federated.edges:
        key = "federated.edges"
        yield problems.problem("idle_key", key, f"{because}; leave it out", edges, where(key))
    for family, section in (
        (STRATEGY, config.strategy),
        (AGGREGATION, config.aggregation),
        (COMPRESSION, config.compression),
        (PRIVACY, config.privacy),
        (ATTACK, config.attack),
    ):
        key, name = f"{family.section}.{family.key}", str(getattr(section, family.key))
        if name != family.default:
            yield problems.problem("idle_key", key, f"{because}; use {key}={family.default}", name, where(key))
            continue
        default = family.registry.get(name).build({})
        for parameter, value in section.parameters.items():
            if value != getattr(default, parameter):
                key = f"{family.section}.{parameter}"
                yield problems.problem("idle_key", key, f"{because}; leave it out", value, where(key))


def protected(
    config: Config, strategy: type[Strategy], refuse: Callable[[str, str], Problem], where: Callable[[str], str]
) -> Iterator[Problem]:
    """What would tell of single clients' images beside the update."""
    mode = f"privacy.mode={config.privacy.mode}"
    if strategy.needs_own_weights or strategy.weighs_parts or strategy.needs_loss:
        text = f"sends more than an update, or weighs it, which {mode} does not cover; use fedavg, fedprox or fedadam"
        yield refuse("strategy.name", text)
    if config.aggregation.parameters.get("weights") == "examples":
        text = f"with {mode} every client counts alike; leave it out"
        yield problems.problem("contradiction", "aggregation.weights", text, "examples", where("aggregation.weights"))
    if isinstance(SCHEDULE.choose(config.schedule), Asynchronous):
        yield refuse("schedule.name", f"has no cohort to account for, which {mode} needs; use schedule.name=sync")
    told = f"would tell of single clients, which {mode} keeps at home; leave it out"
    for key in ("target_accuracy", "patience"):
        if getattr(config.stopping, key) is not None:
            yield refuse(f"stopping.{key}", f"looks at the clients' validation images: {told}")
    if config.tracking.leave_one_out:
        yield refuse("tracking.leave_one_out", f"looks at the clients' validation images: {told}")
    if config.server.max_weight_share is not None:
        yield refuse("server.max_weight_share", f"with {mode} every client counts alike; leave it out")
    if config.federated.quorum > 1:
        yield refuse("federated.quorum", f"with {mode} a round counts however many answer; leave it out")


def summed(config: Config, refuse: Callable[[str, str], Problem]) -> Iterator[Problem]:
    """What needs single updates, where only their noisy sum hides a client."""
    mode = f"privacy.mode={config.privacy.mode}"
    if config.aggregation.name != AGGREGATION.default:
        yield refuse("aggregation.name", f"{mode} adds noise to a sum of updates; use aggregation.name=mean")
    if config.tracking.updates:
        yield refuse("tracking.updates", f"would tell of single clients, which {mode} keeps at home; leave it out")
    if config.federated.over_selection:
        yield refuse("federated.over_selection", f"asks more clients than {mode} accounts for; leave it out")


def by_image(
    config: Config,
    strategy: type[Strategy],
    personal: type[Personalization],
    refuse: Callable[[str, str], Problem],
) -> Iterator[Problem]:
    """What mixes the images of a batch, or trains in steps that are not accounted for."""
    mode = f"privacy.mode={config.privacy.mode}"
    if strategy.adds_to_loss:
        text = f"adds to the loss of a batch, where {mode} clips the gradient of each image; use fedavg or fedprox"
        yield refuse("strategy.name", text)
    own = personal.train is not Personalization.train or personal.initialize is not Personalization.initialize
    if own:
        text = f"trains in steps of its own, which {mode} does not account for; use none, fedper, lgfedavg or finetune"
        yield refuse("personalization.name", text)
    if config.optimizer.mixup:
        yield refuse("optimizer.mixup", f"mixes two images, and {mode} clips the gradient of each; leave it out")
    if config.memory.precision == "fp16":
        yield refuse("memory.precision", f"{mode} bounds gradients that fp16 may lose; use bf16 or fp32")
    if config.memory.gradient_checkpointing:
        text = f"{mode} takes gradients image by image; leave it out, and lower memory.micro_batch"
        yield refuse("memory.gradient_checkpointing", text)


def asynchronous(
    config: Config,
    schedule: Asynchronous,
    strategy: type[Strategy],
    rule: type[AggregationRule],
    where: Callable[[str], str],
) -> Iterator[Problem]:
    """What does not go with updates that come one by one, from several models."""
    refuse, name, federated = refusals(config, where), config.schedule.name, config.federated
    if strategy.needs_cohort:
        text = f"needs a whole cohort that starts from one model, and schedule {name} has none; use schedule.name=sync"
        yield refuse("strategy.name", text)
    if not rule.linear:
        text = f"takes a whole round's updates, and schedule {name} has them one by one; use aggregation.name=mean"
        yield refuse("aggregation.name", text)
    if find(ATTACK, config.attack.name).factory.crafts:
        text = f"makes a round's updates up together, and schedule {name} has no rounds; use label_flip or backdoor"
        yield refuse("attack.name", text)
    if federated.over_selection:
        yield refuse("federated.over_selection", f"belongs to synchronous rounds; leave it out with schedule {name}")
    if config.tracking.leave_one_out:
        text = f"takes a round again without each client, and schedule {name} has no rounds; use schedule.name=sync"
        yield refuse("tracking.leave_one_out", text)
    if federated.quorum > 1:
        text = f"belongs to synchronous rounds; every step of schedule {name} waits for a full buffer, so leave it out"
        yield refuse("federated.quorum", text)
    if schedule.concurrency is not None and schedule.buffer(schedule.concurrency) > schedule.concurrency:
        key = "schedule.buffer_size"
        text = f"only schedule.concurrency = {schedule.concurrency} clients work at a time; use at most so many"
        yield problems.problem("contradiction", key, text, schedule.buffer(schedule.concurrency), where(key))


def refusals(config: Config, where: Callable[[str], str]) -> Callable[[str, str], Problem]:
    """(a section's own key, what is wrong with its value) → the problem."""

    def refuse(key: str, text: str) -> Problem:
        return problems.problem("contradiction", key, text, attrgetter(key)(config), where(key))

    return refuse


def check_compatible(section: str, block: Checked[Given], given: Given) -> None:
    """Look whether the block that `section` names can work with what it is given.

    Raises:
        ConfigError: it cannot.
    """
    if incompatibility := block.incompatibility(given):
        raise ConfigError(problems.incompatible(section, incompatibility))


def check_rule(config: Config, cohort: int) -> None:
    """Look whether the rule of aggregation can work with a round's results.

    Raises:
        ConfigError: it cannot.
    """
    check_compatible("aggregation", AGGREGATION.choose(config.aggregation), cohort)
