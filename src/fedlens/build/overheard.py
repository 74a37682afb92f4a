"""What a server receives in one round of an experiment, message by message, from the clients' own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedlens.build.builders import build_plan
from fedlens.build.experiment import Experiment
from fedlens.core.types import ClientFailure, ClientResult, State, Task, TaskSettings, under
from fedlens.errors import FedLensError
from fedlens.federation.rounds.secure import SecureAggregation
from fedlens.secure_aggregation.client import advertise, consent, share, unmask
from fedlens.secure_aggregation.graph import graph
from fedlens.secure_aggregation.quantization import packed
from fedlens.secure_aggregation.server import MaskedSum
from fedlens.secure_aggregation.session import Session
from fedlens.strategies.base import RoundContext
from fedlens.training.algorithm import Algorithm
from fedlens.training.tasks.secure_train import UPDATE, WEIGHT, SecureTrainSettings, masked_update
from fedlens.transforms.base import SumNoise


def update_of(
    experiment: Experiment, client: str, algorithm: Algorithm, shared: State, faster: float = 1.0
) -> ClientResult:
    """What `client` sends in round 1 from the model `shared`, with that algorithm; decoded.

    faster  factor of the configured learning rate, which a server tells with every task

    Raises:
        FedLensError: the client fails.
    """
    clients = len(experiment.train_data.clients)
    state = algorithm.strategy.init(shared)
    ctx = RoundContext(1, experiment.config.federated.num_rounds, clients, clients, experiment.trained)
    payload = algorithm.chain.encode_model(algorithm.strategy.broadcast(state, ctx))
    trainer, lr = experiment.trainer, build_plan(experiment.config).lr(1) * faster
    trainer.algorithm = algorithm
    outcome = trainer.run(Task(client, 1, "train", payload, TaskSettings(lr)))
    if isinstance(outcome, ClientFailure):
        raise FedLensError(f"{client}: {outcome.reason}")
    return algorithm.chain.decode(outcome, shared)


@dataclass(frozen=True)
class SecureRound:
    """One securely aggregated round.

    masked  client → what the server received, as numbers of an update
    mean    what the server computed in the end
    """

    masked: Mapping[str, State]
    mean: State


def secure_round(
    results: Sequence[ClientResult], how: SecureAggregation, images: int, noise: SumNoise | None = None
) -> SecureRound:
    """A round with every stage, in which nobody is lost. `images`: no client has more; `noise`: of which each client
    adds a share.

    Raises:
        ConfigError: the sum does not fit into the modulus.
        ProtocolError: an update has a number that is too large for it.
    """
    trained = {result.client: result for result in results}
    session = Session.new(1, 0)
    server = MaskedSum(session, graph(sorted(trained), how.degree(len(trained))), how.threshold)
    states = {}
    for name in trained:
        states[name], advert = advertise(name, session)
        server.advertised(name, advert)
    for name in trained:
        adverts, needed = server.adverts_for(name), server.threshold(name)
        states[name], sealed, committed = share(states[name], adverts, needed, server.least, server.cohort)
        server.shared(name, sealed, committed)
    numbers = how.quantization(len(trained), images, noise)
    masked: dict[str, dict[str, Tensor]] = {}
    for name, result in trained.items():
        settings = SecureTrainSettings(
            present=server.present(name),
            bits=numbers.bits,
            exponent=numbers.exponent,
            weight=numbers.weight,
            bound=numbers.bound,
        )
        states[name], masked[name] = masked_update(states[name], result, settings, noise)
        server.add(name, packed(masked[name], numbers.bits))
    for name in trained:
        states[name], signature = consent(states[name], server.survivors)
        server.consented(name, signature)
    for name in trained:
        server.opened(name, unmask(states[name], server.signatures_for(name), server.sealed_for(name)))
    total = numbers.sums(server.total(), next(iter(masked.values())))
    seen = {
        name: {part: value.double() * 2.0**-numbers.exponent for part, value in under(UPDATE, sent).items()}
        for name, sent in masked.items()
    }
    return SecureRound(seen, {name: value / total[WEIGHT] for name, value in under(UPDATE, total).items()})
