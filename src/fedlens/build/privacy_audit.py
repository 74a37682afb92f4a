"""An audit of a run's privacy: canaries are played through its own code, and its claim is compared with what they show.

What is tried is the code with the run's configuration, for a round or a few: the ε of all rounds follows from that of
one by the accountant's arithmetic, which needs no experiment (it is compared with other accountants by tests).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedlens.build.builders import federation_of
from fedlens.build.canaries import LONG, CanaryClient, CanaryImage, World
from fedlens.build.privacy import build_claim
from fedlens.config import problems
from fedlens.config.blocks import PRIVACY
from fedlens.config.schema import Config
from fedlens.errors import ConfigError
from fedlens.privacy.accounting import need_accountants
from fedlens.privacy.audit import DELTAS, Array, Examination, draws_to_show, examine, most, would_show
from fedlens.privacy.dp_sgd import Steps
from fedlens.privacy.ledger import Spent
from fedlens.privacy.release import Claim
from fedlens.training.device import one_thread

UNCLAIMED_DELTA = 1e-5
"""At which ε is bounded where a mode has no δ."""

UNCLAIMED_LENGTHS = (1.0, 10.0, 100.0)
"""Of updates, where nothing clips them."""

MOST_DRAWS = 1_000_000

MOST_STEPS = 2
"""Of a round of DP-SGD: a second one shows whether each step has noise of its own."""


@dataclass(frozen=True)
class Audit:
    """claim: of the rounds that were played; None: nothing is claimed. accountant: which one gave its ε. trials: length
    of the canary, and what was found with it."""

    config: Config
    claim: Claim | None
    accountant: str
    rounds: int
    draws: int
    trials: tuple[tuple[float, Examination], ...]

    @property
    def contradicted(self) -> bool:
        return any(found.contradicts for _, found in self.trials)

    @property
    def delta(self) -> float:
        return UNCLAIMED_DELTA if self.claim is None else self.claim.delta

    @property
    def most(self) -> float:
        """The largest ε that so many draws can show."""
        return most(self.draws, self.delta)

    @property
    def needed(self) -> int | None:
        """About how many draws it takes to notice half the noise; None: more than `MOST_DRAWS`. These draws, where they
        are enough."""
        assert self.claim is not None
        releases, claimed = self.claim.mechanism.releases(self.rounds), _claimed(self.claim, self.rounds)
        draws = self.draws
        while draws <= MOST_DRAWS:
            if would_show(releases, draws, self.delta, claimed):
                return draws
            draws *= 2
        return None


def audit(
    config: Config,
    clients: int,
    images: Sequence[int],
    draws: int,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Audit:
    """Play a run's mechanism `draws` times with and without a canary. `clients`, `images`: as for `build_claim`.

    Raises:
        ConfigError: the run changes no update, or so few draws bound nothing.
    """
    if PRIVACY.choose(config.privacy).transform(federation_of(config)) is None:
        text = "updates travel as they are and nothing is claimed, so there is nothing to audit"
        raise ConfigError(problems.problem("incompatible", "privacy.mode", text, config.privacy.mode))
    if draws < (least := draws_to_show(0.0, UNCLAIMED_DELTA)):
        raise ConfigError(
            f"--draws {draws}: so few bound nothing, whatever is released; use {least} at least, better 10000",
            code="out_of_range",
            key="--draws",
        )
    need_accountants()
    claim = _unlimited(build_claim(config, clients, images))
    rounds = 1 if claim is None else min(claim.mechanism.telling, config.federated.num_rounds)
    trials = []
    worlds = _worlds(config, claim, rounds)
    for number, (length, world) in enumerate(worlds):
        begun = number * draws

        def played(done: int, begun: int = begun) -> None:
            progress(begun + done, len(worlds) * draws)

        drawn = _drawn(world, draws, played)
        trials.append((length, examine(*drawn, _delta(claim), _claimed(claim, rounds) if claim else {})))
    accountant = claim.cost(Spent(rounds)).accountant if claim else ""
    return Audit(config, claim, accountant, rounds, draws, tuple(trials))


def _unlimited(claim: Claim | None) -> Claim | None:
    """The claim for what is played: no budget ends it, and a round of DP-SGD has few steps."""
    if claim is None:
        return None
    mechanism = claim.mechanism
    if isinstance(mechanism, Steps):
        mechanism = replace(mechanism, steps=min(mechanism.steps, MOST_STEPS))
    return replace(claim, mechanism=mechanism, budget=None)


def _worlds(config: Config, claim: Claim | None, rounds: int) -> list[tuple[float, World]]:
    if claim is None:
        return [(length, CanaryClient(config, None, rounds, length)) for length in UNCLAIMED_LENGTHS]
    length = LONG * claim.clip
    if PRIVACY.choose(config.privacy).by_image:
        return [(length, CanaryImage(config, claim))]
    return [(length, CanaryClient(config, claim, rounds, length))]


def _drawn(world: World, draws: int, played: Callable[[int], None]) -> tuple[Array, Array]:
    """(draws, rounds) of the world without and with the canary, in turns."""
    absent, present = [], []
    with one_thread():
        for done in range(1, draws + 1):
            absent.append(world.play(False))
            present.append(world.play(True))
            if done % 50 == 0 or done == draws:
                played(done)
    # a function of the user's may give anything
    return np.nan_to_num(np.array(absent), posinf=0, neginf=0), np.nan_to_num(np.array(present), posinf=0, neginf=0)


def _delta(claim: Claim | None) -> float:
    return UNCLAIMED_DELTA if claim is None else claim.delta


def _claimed(claim: Claim, rounds: int) -> dict[float, float]:
    """δ → the ε that the accountant claims for the rounds that are played."""
    deltas = [claim.delta, *(delta for delta in DELTAS if delta > claim.delta)]
    return {delta: replace(claim, delta=delta).cost(Spent(rounds)).value for delta in deltas}
