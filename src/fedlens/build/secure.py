"""Secure aggregation: from the configuration to the protocol, and what does not go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from fedlens.config import problems
from fedlens.config.blocks import AGGREGATION, ATTACK, COMPRESSION, PERSONALIZATION, PRIVACY, SCHEDULE, STRATEGY, find
from fedlens.config.schema import Config
from fedlens.errors import ConfigError, Problem
from fedlens.federation.rounds.base import RoundProtocol, RoundSetup
from fedlens.federation.rounds.secure import SecureAggregation, SecureRounds
from fedlens.schedules.base import Asynchronous
from fedlens.secure_aggregation.graph import holders_needed, neighbours_needed
from fedlens.transforms.base import SumNoise

Refuse = Callable[[str, str], Problem]
"""(a section's own key, what is wrong with its value) → the problem."""

SUM = "with privacy.secure_aggregation the server sees the sum of a round's updates alone"


def settings_of(config: Config) -> SecureAggregation:
    """How rounds are aggregated securely."""
    section = config.privacy
    return SecureAggregation(
        section.secure_threshold, section.secure_neighbours, section.secure_bits, section.secure_largest
    )


def protocol_of(config: Config) -> Callable[[RoundSetup], RoundProtocol]:
    """What makes the protocol of the configured rounds."""
    if config.privacy.secure_aggregation:
        return partial(SecureRounds, how=settings_of(config))
    return SCHEDULE.choose(config.schedule).protocol


def unmeasured(config: Config) -> bool:
    """Whether what could be measured of single clients and on their images stays with them."""
    return config.privacy.secure_aggregation or PRIVACY.choose(config.privacy).protects


def described(config: Config, cohort: int) -> str:
    """ "secure aggregation, each of 10 clients in a round with 9 others; 7 have to stay, or nothing is opened"."""
    how = settings_of(config)
    others = min(how.degree(cohort), max(cohort - 1, 0))
    least, needed = holders_needed(cohort, how.threshold), neighbours_needed(cohort, how.threshold)
    few = f" (privacy.secure_neighbours is below the {needed:,} that the bounds of SecAgg+ ask for)"
    return (
        f"secure aggregation, each of {cohort:,} clients in a round with {others:,} others"
        f"{few if others < needed else ''}; {least:,} have to stay, or nothing is opened"
    )


def secure_mismatches(config: Config, refuse: Refuse) -> Iterator[Problem]:
    """A problem for each part that needs more than the sum of a round's updates. All names are known."""
    if config.privacy.secure_aggregation:
        yield from _single_updates(config, refuse)
        yield from _single_clients(config, refuse)


def _single_updates(config: Config, refuse: Refuse) -> Iterator[Problem]:
    """What works with updates one by one."""
    if not find(PERSONALIZATION, config.personalization.name).factory.shares:
        text = "this personalization shares nothing, so there is nothing to hide; use privacy.secure_aggregation=false"
        yield refuse("privacy.secure_aggregation", text)
    if isinstance(SCHEDULE.choose(config.schedule), Asynchronous):
        yield refuse("schedule.name", f"{SUM}, and this schedule takes them one by one; use schedule.name=sync")
    if not find(AGGREGATION, config.aggregation.name).factory.linear:
        yield refuse("aggregation.name", f"{SUM}, and this rule compares updates; use aggregation.name=mean")
    if find(STRATEGY, config.strategy.name).factory.weighs_parts:
        yield refuse("strategy.name", f"{SUM}, and this strategy weighs its parts one by one; use strategy.name=fedavg")
    if config.compression.name != COMPRESSION.default:
        text = f"{SUM}, to which encoded updates do not add up; use compression.name=none"
        yield refuse("compression.name", text)
    if find(ATTACK, config.attack.name).factory.crafts:
        yield refuse("attack.name", f"makes updates up where they arrive, and {SUM}; use label_flip or backdoor")
    for key in ("updates", "leave_one_out"):
        if getattr(config.tracking, key):
            yield refuse(f"tracking.{key}", f"{SUM}, and this compares updates; leave it out")
    if config.privacy.mode != PRIVACY.default and not PRIVACY.choose(config.privacy).masks:
        text = "has no noise that clients can add to masked updates; use privacy.mode=central, or none"
        yield refuse("privacy.mode", text)
    if config.privacy.secure_bits == 32 and config.privacy.parameters.get("clip") == "adaptive":
        text = "a clip that follows the updates may come to need finer or larger numbers; use privacy.secure_bits=64"
        yield refuse("privacy.secure_bits", text)


def _single_clients(config: Config, refuse: Refuse) -> Iterator[Problem]:
    """What needs the weights or the measures of single clients, or does without many of them."""
    for key in ("target_accuracy", "patience"):
        if getattr(config.stopping, key) is not None:
            text = (
                "looks at clients' validation images, and with privacy.secure_aggregation they stay there; leave it out"
            )
            yield refuse(f"stopping.{key}", text)
    if config.server.max_weight_share is not None:
        yield refuse("server.max_weight_share", f"{SUM}, and no single weight; leave it out")
    most, threshold = 1 / config.privacy.secure_threshold - 1, config.privacy.secure_threshold
    if config.federated.over_selection > most + 1e-9:
        text = (
            f"late clients count as lost, and privacy.secure_threshold={threshold:.3g} of those asked have to stay; "
            f"use at most {most:.2f}, or a smaller privacy.secure_threshold"
        )
        yield refuse("federated.over_selection", text)


def check_neighbours(config: Config, cohort: int) -> None:
    """Look whether clients in a round of so many hide each other as the bounds of SecAgg+ ask for, on which a claim of
    differential privacy rests.

    Raises:
        ConfigError: they do not.
    """
    how, most = settings_of(config), cohort - 1
    needed = min(neighbours_needed(cohort, how.threshold), most)
    if min(how.degree(cohort), most) < needed:
        text = (
            f"ε would not hold against the server: in a round of {cohort:,} clients each needs masks with {needed:,} "
            "others; leave it out"
        )
        raise ConfigError(
            problems.problem("contradiction", "privacy.secure_neighbours", text, config.privacy.secure_neighbours)
        )


def check_secure(config: Config, cohort: int, examples: int = 1, noise: SumNoise | None = None) -> None:
    """Look whether `cohort` clients, none of which has more than so many training images, can be aggregated securely,
    and their noise with them.

    Raises:
        ConfigError: one update alone is its own sum; or the sum does not fit into the modulus.
    """
    if not config.privacy.secure_aggregation:
        return
    if cohort < 2:
        text = (
            "a round may have one client alone, and the sum of one update is that update; use a larger "
            "federated.fraction_fit, or federated.min_fit_clients=3"
        )
        raise ConfigError(problems.problem("incompatible", "privacy.secure_aggregation", text, True))
    settings_of(config).quantization(cohort, examples, noise)
