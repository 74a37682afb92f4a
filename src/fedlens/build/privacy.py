"""Differential privacy of a run, from its configuration: what does not go with it, and what it claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedlens.build.builders import federation_of
from fedlens.build.experiment import Experiment
from fedlens.build.secure import check_neighbours
from fedlens.config import problems
from fedlens.config.blocks import PRIVACY
from fedlens.config.schema import Config
from fedlens.errors import ConfigError
from fedlens.privacy.ledger import LEDGER_FILE, Ledger, Spent
from fedlens.privacy.release import Claim, PrivateSum
from fedlens.training.image_gradients import batch_layer


def build_claim(config: Config, clients: int, images: Sequence[int] = ()) -> Claim | None:
    """What a run with so many clients claims; None: nothing. `clients` counts where privacy.population is not given,
    `images`, those of each client, where privacy.min_images is not.

    Raises:
        ConfigError: nobody says how many clients there are; or a cohort, a budget, or the number of clients with which
            each has masks is too small.
    """
    claim = PRIVACY.choose(config.privacy).claim(federation_of(config, clients, images))
    if claim is None:
        return None
    if claim.of_sum and claim.cohort <= 1:
        text = (
            f"a round has {claim.cohort:g} clients on average, and noise that hides one of them hides "
            "everything; use more clients, or a larger share of them"
        )
        raise ConfigError(
            problems.problem("incompatible", "federated.fraction_fit", text, config.federated.fraction_fit)
        )
    if claim.shared:
        check_neighbours(config, round(claim.cohort))
    if claim.budget is not None and (least := claim.cost(Spent(1)).value) > claim.budget:
        text = f"one round alone costs ε = {least:.3g} at δ = {claim.delta:g}; use more noise"
        raise ConfigError(problems.problem("contradiction", "privacy.budget", text, claim.budget))
    return claim


def private_sum(experiment: Experiment) -> PrivateSum | None:
    """What the server of a run does for privacy; None: nothing.

    Raises:
        ConfigError: as `build_claim`; or running statistics of the clients' images would travel.
        CheckpointError: the run's ledger cannot be read, or is of another mechanism.
    """
    clients = experiment.train_data.clients
    claim = build_claim(experiment.config, len(clients), [len(client.train) for client in clients])
    if claim is None:
        return None
    if claim.each_client and (name := batch_layer(experiment.resident)):
        text = f"its layer {name} mixes the images of a batch; use model.norm=group"
        raise ConfigError(problems.problem("incompatible", "model.norm", text, experiment.config.model.norm))
    if experiment.shared.keys() - experiment.trained:
        text = "running statistics of BatchNorm would travel; use model.norm=group, or personalization.name=fedbn"
        raise ConfigError(problems.problem("incompatible", "model.norm", text, experiment.config.model.norm))
    ledger = Ledger(experiment.folder / LEDGER_FILE, claim.terms)
    return PrivateSum(claim, ledger, {name: value.to("meta") for name, value in experiment.shared.items()})


def doubts(claim: Claim, clients: int = 0) -> Iterator[str]:
    """What a user has to know of a claim before it is believed. `clients`: how many are known, where the claim does not
    say how many may take part."""
    crowd, what = (claim.images, "training images") if claim.images else (claim.population or clients, "clients")
    if claim.insecure:
        yield (
            "privacy.insecure_seed: noise and cohorts can be computed by everybody who knows it, so NOBODY IS "
            "PROTECTED; for experiments only"
        )
    if crowd and claim.delta >= 1 / crowd:
        yield (
            f"privacy.delta = {claim.delta:g}: with {crowd:,} {what} a mechanism that shows one of them whole could "
            f"have that δ; use one far below 1/{crowd:,} = {1 / crowd:.1g}"
        )
