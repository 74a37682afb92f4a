"""Securely aggregated rounds: the server learns the sum of a cohort's updates, and of no client its own.

SecAgg (Bonawitz et al. 2017, https://doi.org/10.1145/3133956.3133982, Figure 4) and, in large cohorts, SecAgg+ (Bell et
al. 2020, https://doi.org/10.1145/3372297.3417885, Algorithm 2), in five stages, each a task kind:

    secure_keys       every client advertises public keys of this attempt
    secure_shares     and shares its two secrets with its neighbours, encrypted
    secure_train      trains, and sends its masked update
    secure_survivors  signs the list of the clients whose masked updates have come
    secure_unmask     gives the shares by which the masks of the sum are removed

A client that is lost at any stage is recovered from, as long as a share `threshold` of the cohort stays; otherwise
nothing of the attempt is opened, and the round begins again with new keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlens.aggregation.base import Aggregator
from fedlens.core.types import ClientFailure, ClientInfo, PartialSum, State
from fedlens.errors import NotEnoughClients, ProtocolError
from fedlens.federation.checkpoints import Checkpoint
from fedlens.federation.rounds.base import CollectedRound, PhaseTimer, RoundProtocol, RoundSetup
from fedlens.federation.rounds.secure_attempt import Attempt, TooFew
from fedlens.federation.rounds.synchronous import ROUND_TRIES
from fedlens.secure_aggregation.graph import graph, holders_needed, honest_at_threshold, neighbours_needed
from fedlens.secure_aggregation.quantization import LARGEST, Bits, Quantization
from fedlens.secure_aggregation.server import MaskedSum
from fedlens.secure_aggregation.session import Session
from fedlens.strategies.base import RoundContext
from fedlens.transforms.base import SumNoise


@dataclass(frozen=True)
class SecureAggregation:
    """threshold   share of the cohort that has to stay to the end, and of a client's neighbours that open its secrets
    neighbours  clients with which each client has masks; None: as many as the bounds of SecAgg+ ask for
    bits        of a masked number
    largest     the largest coordinate of an update that is expected; None: `quantization.LARGEST`
    """

    threshold: float = 2 / 3
    neighbours: int | None = None
    bits: Bits = 64
    largest: float | None = None

    def degree(self, cohort: int) -> int:
        """Neighbours of each client in a cohort of that size."""
        return neighbours_needed(cohort, self.threshold) if self.neighbours is None else self.neighbours

    def quantization(self, cohort: int, examples: int, noise: SumNoise | None = None) -> Quantization:
        """For clients of at most so many training images, which no weight is above; with `noise` all weigh 1.

        Raises:
            ConfigError: the cohort's sum does not fit into `bits`.
        """
        if noise is not None:
            clients = max(cohort, 2)
            honest = honest_at_threshold(clients, self.threshold)
            numbers = [(share.largest, share.spread(honest)) for share in noise.shares.values()]
            return Quantization.with_noise(self.bits, numbers, clients)
        return Quantization.of(self.bits, self.largest or LARGEST[self.bits], float(max(examples, 1)), max(cohort, 1))


class SecureRounds(RoundProtocol):
    """Collects rounds of which the server sees sums alone."""

    def __init__(self, setup: RoundSetup, how: SecureAggregation) -> None:
        super().__init__(setup)
        self._how = how

    def resume(self, checkpoint: Checkpoint) -> None:
        """Raises ConfigError: the updates of a round of the clients that are there do not fit into the modulus."""
        known = sorted(self.setup.runtime.known(), key=lambda client: client.examples, reverse=True)
        self._quantization(known[: self.setup.sampler.most(len(known))], checkpoint)

    def collect(self, before: Checkpoint, number: int, timer: PhaseTimer) -> CollectedRound:
        """Collect a round; where too few clients stay, begin it again, with new keys."""
        lost: tuple[ClientFailure, ...] = ()
        reasons: list[str] = []
        for attempt in range(ROUND_TRIES):
            trial = self._begin(before, number, attempt)
            try:
                return self._collected(trial, before, timer, lost)
            except (TooFew, ProtocolError) as error:
                reasons.append(str(error))
                lost = (*lost, *trial.failures)
                self.setup.note(f"round {number}: {error}; it begins again with new keys")
        causes = sorted({*reasons, *(failure.reason for failure in lost)})
        raise NotEnoughClients(
            f"round {number}: secure aggregation has failed {ROUND_TRIES} times over ({'; '.join(causes)}). The run is "
            "kept: resume it later, with more clients or a smaller privacy.secure_threshold"
        )

    def _begin(self, before: Checkpoint, number: int, attempt: int) -> Attempt:
        sampler, runtime = self.setup.sampler, self.setup.runtime
        clients = runtime.clients(sampler.min_fit_clients)
        cohort = sampler.choose(number, clients, spare=runtime.may_be_late)
        names = [client.name for client in cohort]
        masked = MaskedSum(
            Session.new(number, attempt), graph(names, self._how.degree(len(names))), self._how.threshold
        )
        quorum = max(self.setup.quorum, holders_needed(len(cohort), self._how.threshold))
        enough = max(min(sampler.size(len(clients)), len(cohort)), quorum)
        return Attempt(runtime, masked, cohort, enough, quorum, before.versions)

    def _collected(
        self, trial: Attempt, before: Checkpoint, timer: PhaseTimer, lost: tuple[ClientFailure, ...]
    ) -> CollectedRound:
        ctx = self.setup.context(trial.number, len(trial.cohort))
        with timer.phase("broadcast"):
            trial.exchange_keys()
            payload = self.setup.broadcast(before, ctx)
        with timer.phase("train"):
            trial.collect(payload, self.setup.lr(trial.number), self._quantization(trial.cohort, before))
        with timer.phase("aggregate"):
            trial.agree()
            aggregator = self.setup.make_aggregator(ctx, before.kept)  # counts a release: before anything is opened
            return self._aggregated(trial.opened(), aggregator, trial, before, ctx, lost)

    def _quantization(self, cohort: Sequence[ClientInfo], before: Checkpoint) -> Quantization:
        chain, most = self.setup.chain, max((client.examples for client in cohort), default=0)
        return self._how.quantization(len(cohort), most, chain.sum_noise(chain.told(before.kept), len(cohort)))

    def _aggregated(
        self,
        total: PartialSum,
        aggregator: Aggregator,
        trial: Attempt,
        before: Checkpoint,
        ctx: RoundContext,
        lost: tuple[ClientFailure, ...],
    ) -> CollectedRound:
        payload, extra = (in_own_types(part, before.state.shared) for part in (total.payload, total.extra))
        aggregator.merge(replace(total, payload=payload, extra=extra))
        return CollectedRound.of(ctx, aggregator, total.reports, (*lost, *trial.failures))


def in_own_types(sums: State, shared: State) -> dict[str, Tensor]:
    """Sums in the types that clients' tensors have: those of the model, float32, and float64 for scalars."""
    other = {name: torch.float32 if value.dim() else torch.float64 for name, value in sums.items()}
    return {name: value.to(shared[name].dtype if name in shared else other[name]) for name, value in sums.items()}
