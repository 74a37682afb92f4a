"""The family of privacy modes: who adds noise, to what, and what that proves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedlens.core.registry import Registry
from fedlens.privacy.dp_sgd import DPSGD
from fedlens.privacy.release import Claim
from fedlens.transforms.base import UpdateTransform

Sampling = Literal["fixed", "poisson", "cyclic"]
"""How cohorts are drawn. fixed: as many clients as `federated` says; poisson: each client by a coin of its own; cyclic:
group after group, each client once in so many rounds."""

LEAVES = ("seconds", "bytes_down", "bytes_up")
"""Metrics that leave a client although its images are protected, or its update is masked: they do not depend on what an
image shows. How long a client trains tells how many images it has (docs/privacy.md)."""


@dataclass(frozen=True)
class Federation:
    """What a claim of privacy depends on, beside the mode's own keys.

    population    all clients that may take part; 0: not known
    rounds        of the whole run
    fraction      share of the clients in a round: the probability of each client's coin, or one of `groups_of` groups
    batch_size, epochs  of local training
    images        training images of each client; empty: not known
    """

    population: int
    rounds: int
    fraction: float
    batch_size: int = 1
    epochs: int = 1
    images: tuple[int, ...] = ()


class PrivacyMode:
    """One mode. The fields of the dataclass are its configuration keys under `privacy`. The defaults protect nothing.

    protects  what a client reports of its images stays with it: losses, norms, weights, counts and accuracies
    ledgers   each client keeps a ledger of its own
    by_image  single images are hidden, by how clients train (`dp_sgd`); else whole updates
    opposite  what is hidden is which of two updates of opposite directions a client has; else whether it has one at all
    masks     with secure aggregation, clients add the noise to masked updates (`UpdateTransform.sum_noise`)
    sampling  how cohorts are drawn; None: as it is best
    insecure_seed  seed of all that is random in the mode, for experiments only; None: the operating system's randomness
    """

    protects: ClassVar[bool] = False
    by_image: ClassVar[bool] = False
    ledgers: ClassVar[bool] = False
    opposite: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    sampling: Sampling | None = "fixed"
    insecure_seed: int | None = None

    @property
    def cohorts(self) -> Sampling:
        """How cohorts are drawn."""
        return self.sampling or "fixed"

    @property
    def disclaimer(self) -> str | None:
        """What to say at the start of a run of a mode that changes updates and claims nothing."""
        return None

    def contradiction(self) -> str | None:
        """Two of its keys that exclude each other: a line that starts with one of them ("budget = 8: …"); None if there
        are none."""
        return None

    def transform(self, federation: Federation) -> UpdateTransform | None:
        """What happens to updates at clients, and to each one where it is added up. A client knows no population."""
        return None

    def dp_sgd(self, federation: Federation) -> DPSGD | None:
        """How clients train so that each of their images is hidden; None: as always."""
        return None

    def claim(self, federation: Federation) -> Claim | None:
        """What a run claims; None: nothing."""
        return None


def groups_of(fraction: float) -> int:
    """The number of groups that take turns, where each round asks that share of the clients."""
    return int(1 / fraction + 1e-9)  # 1 / 0.1 may lie just below 10 in binary


privacy_modes: Registry[PrivacyMode] = Registry("privacy mode", "fedlens.privacy")
