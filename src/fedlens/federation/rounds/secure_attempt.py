"""One attempt at a securely aggregated round: sends the tasks of its stages, and gives what comes back to the masked
sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedlens.core.types import (
    ClientFailure,
    ClientInfo,
    ClientReport,
    ClientResult,
    MeanMetric,
    PartialSum,
    Stage,
    State,
    Task,
    TaskSettings,
    nbytes,
    under,
)
from fedlens.errors import ProtocolError
from fedlens.runtimes.base import Runtime
from fedlens.secure_aggregation.keys import ADVERT_BYTES, SIGNATURE_BYTES
from fedlens.secure_aggregation.quantization import Quantization, packed
from fedlens.secure_aggregation.server import MaskedSum
from fedlens.secure_aggregation.shares import SEALED_BYTES
from fedlens.secure_aggregation.tensors import from_tensor, parts, rows
from fedlens.training.tasks.secure_keys import KeysSettings
from fedlens.training.tasks.secure_shares import SharesSettings
from fedlens.training.tasks.secure_survivors import SurvivorsSettings
from fedlens.training.tasks.secure_train import EXTRA, UPDATE, WEIGHT, SecureTrainSettings
from fedlens.training.tasks.secure_unmask import UnmaskSettings

NOTHING: State = {}
"""The payload of tasks that need none: a runtime sends once what is one object."""


class TooFew(Exception):
    """Too few clients are left for an attempt; nothing of it is opened."""


Work = Callable[[str], tuple[TaskSettings, State]]
"""A client → the settings and the payload of its task."""


@dataclass
class Attempt:
    """One attempt: sends the stages' tasks, and gives what comes back to the masked sum.

    quorum    fewest clients whose updates make a round
    signed    clients that have signed the list of survivors
    traffic   bytes of every client's messages: from the server, to the server
    """

    runtime: Runtime
    masked: MaskedSum
    cohort: Sequence[ClientInfo]
    enough: int
    quorum: int
    versions: Mapping[str, int | None]
    failures: list[ClientFailure] = field(default_factory=list)
    reports: list[ClientReport] = field(default_factory=list)
    forms: State = field(default_factory=dict)
    quantization: Quantization | None = None
    signed: Sequence[str] = ()
    traffic: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return self.masked.session.round

    def exchange_keys(self) -> None:
        """The first two stages.

        Raises:
            TooFew: fewer clients than the threshold have finished them.
        """
        masked = self.masked
        begin = KeysSettings(session=masked.session.name)
        names = [client.name for client in self.cohort]
        for result in self._stage("secure_keys", 0, names, lambda _name: (begin, NOTHING)):
            self._use(result, lambda client, sent: masked.advertised(client, from_tensor(sent["keys"])))
        for result in self._stage("secure_shares", 1, self._left(masked.can_share()), self._sharing):
            self._use(result, self._take_shares)

    def collect(self, payload: State, lr: float, quantization: Quantization) -> None:
        """The third stage: training. Masked updates are added as they come."""
        self.quantization = quantization
        bits, exponent, weight, bound = (
            quantization.bits,
            quantization.exponent,
            quantization.weight,
            quantization.bound,
        )

        def training(name: str) -> tuple[TaskSettings, State]:
            present = self.masked.present(name)
            settings = SecureTrainSettings(
                lr=lr, present=present, bits=bits, exponent=exponent, weight=weight, bound=bound
            )
            return settings, payload

        names = self._left(self.masked.can_mask())
        for result in self._stage("secure_train", 2, names, training, enough=self.enough):
            self.forms = self.forms or {name: value.to("meta") for name, value in result.payload.items()}
            self.masked.add(result.client, packed(result.payload, bits))
            self.reports.append(result.report)
            del result  # its memory is free before the next one comes

    def agree(self) -> None:
        """The fourth stage: clients sign the list of those whose updates are added up. Nothing is opened yet.

        Raises:
            TooFew: fewer clients than the threshold have finished it, or masks do not connect those that are left.
        """
        masked = self.masked
        survivors = self._left(list(masked.survivors))
        if not masked.connected:
            raise TooFew(
                f"masks do not connect the {len(survivors)} clients that are left, so the sums of parts of them would "
                "be seen; use a larger privacy.secure_neighbours, or leave it out"
            )
        consenting = SurvivorsSettings(survivors=tuple(survivors))
        signed = []
        for result in self._stage("secure_survivors", 3, survivors, lambda _name: (consenting, NOTHING)):
            if self._use(result, lambda client, sent: masked.consented(client, from_tensor(sent["signature"]))):
                signed.append(result.client)
        self.signed = self._left(signed)

    def opened(self) -> PartialSum:
        """The last stage, and the sum of the updates.

        Raises:
            ProtocolError: a secret cannot be opened.
        """
        masked = self.masked
        for result in self._stage("secure_unmask", 4, self.signed, self._unmasking):
            self._use(result, self._take_opened)
        assert self.quantization is not None
        sums = self.quantization.sums(masked.total(), self.forms)
        for client, owner in sorted(masked.wrong.items()):
            reason = (
                f"its share of {owner}'s secret was wrong, and was left out: it lied, or {owner} gave it that share"
            )
            self.failures.append(ClientFailure(client, self.number, reason))
        reports = tuple(self._with_traffic(report) for report in self.reports)
        return PartialSum(self.number, under(UPDATE, sums), float(sums[WEIGHT]), under(EXTRA, sums), reports)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def _sharing(self, name: str) -> tuple[TaskSettings, State]:
        adverts = self.masked.adverts_for(name)
        settings = SharesSettings(
            neighbours=tuple(adverts),
            threshold=self.masked.threshold(name),
            least=self.masked.least,
            cohort=self.masked.cohort,
        )
        return settings, {"keys": rows(adverts, list(adverts), ADVERT_BYTES)}

    def _take_shares(self, client: str, sent: State) -> None:
        sealed = parts(sent["shares"], list(self.masked.adverts_for(client)))
        self.masked.shared(client, sealed, from_tensor(sent["commitment"]))

    def _take_opened(self, client: str, sent: State) -> None:
        senders = (*self.masked.sealed_for(client), client)
        self.masked.opened(client, parts(sent["shares"], senders))

    def _unmasking(self, name: str) -> tuple[TaskSettings, State]:
        signatures, sealed = self.masked.signatures_for(name), self.masked.sealed_for(name)
        settings = UnmaskSettings(signers=tuple(signatures), senders=tuple(sealed))
        payload = {
            "signatures": rows(signatures, list(signatures), SIGNATURE_BYTES),
            "shares": rows(sealed, list(sealed), SEALED_BYTES),
        }
        return settings, payload

    def _stage(
        self, kind: str, number: int, names: Sequence[str], work: Work, enough: int | None = None
    ) -> Iterator[ClientResult]:
        """Send a stage's tasks to the clients called `names`; gives the results as they come."""
        stage = Stage(number, last=kind == "secure_unmask", attempt=self.masked.session.attempt)
        tasks = {}
        for name in names:
            settings, payload = work(name)
            tasks[name] = Task(
                name, self.number, kind, payload, settings, self.versions.get(name), unaggregated=True, stage=stage
            )
        self.runtime.submit(tasks.values(), enough=enough)
        for outcome in self.runtime.completed():
            if isinstance(outcome, ClientFailure):
                self.failures.append(outcome)
            else:
                assert isinstance(outcome, ClientResult)
                self._count(tasks[outcome.client], outcome)
                yield outcome
            del outcome

    def _use(self, result: ClientResult, take: Callable[[str, State], None]) -> bool:
        """Give a result to the masked sum; one that does not fit is its client's failure."""
        try:
            take(result.client, result.payload)
        except ProtocolError as error:
            reason = f"its result was not used: {error}"
            self.failures.append(ClientFailure(result.client, self.number, reason))
            return False
        return True

    def _left(self, names: list[str]) -> list[str]:
        """`names`, in the cohort's order.

        Raises:
            TooFew: they are fewer than the quorum.
        """
        if len(names) < self.quorum:
            raise TooFew(f"{len(names)} of {len(self.cohort)} clients are left, and {self.quorum} are needed")
        return [client.name for client in self.cohort if client.name in set(names)]

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def _count(self, task: Task, result: ClientResult) -> None:
        down, up = self.traffic.get(result.client, (0.0, 0.0))
        self.traffic[result.client] = down + nbytes(task.payload), up + nbytes(result.payload)

    def _with_traffic(self, report: ClientReport) -> ClientReport:
        """The report, with the bytes of all stages."""
        down, up = self.traffic[report.client]
        counted = {"bytes_down": MeanMetric(down, 1), "bytes_up": MeanMetric(up, 1)}
        return replace(report, metrics={**report.metrics, **counted})
