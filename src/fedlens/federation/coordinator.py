"""The coordinator: runs rounds from a checkpoint to the end of the plan, over any runtime, strategy and model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from fedlens.aggregation.base import AggregatedUpdate, Aggregator
from fedlens.aggregation.norms import all_finite, l2_norm
from fedlens.core.floors import Population, own_majority, share
from fedlens.core.records import ClientEvaluation, Evaluation, RoundRecord
from fedlens.core.types import ClientReport, ClientResult, State, Task, TaskSettings, following
from fedlens.errors import BUDGET_SPENT, PrivacyBudgetExceeded, TrainingDiverged
from fedlens.federation.bookkeeping import Bookkeeping
from fedlens.federation.checkpoints import Checkpoint
from fedlens.federation.leave_one_out import LeaveOneOut
from fedlens.federation.measures import accuracy_of_groups
from fedlens.federation.rounds.base import CollectedRound, PhaseTimer, RoundProtocol, RoundSetup
from fedlens.federation.rounds.synchronous import SynchronousRounds
from fedlens.federation.sampling import Sampler
from fedlens.federation.stopping import StoppingSection
from fedlens.runtimes.base import Runtime
from fedlens.strategies.base import RoundContext, ServerState, Strategy
from fedlens.training.device import one_thread
from fedlens.transforms.base import TransformChain

Evaluate = Callable[[Checkpoint], Evaluation | None]
"""Evaluates a run at a checkpoint; None where there are no images to evaluate on."""

Measure = Callable[[State], Mapping[str, float]]
"""A shared model → numbers by name."""

Describe = Callable[[AggregatedUpdate, Sequence[ClientReport], Population], Mapping[str, float]]
"""A round's aggregated update, its reports, and all known clients → numbers by name."""


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run. `lr` gives the clients' learning rate of a round; `protocol` makes the round protocol; every
    `leave_one_out`-th round clients' contributions are measured, 0: never."""

    num_rounds: int
    sampler: Sampler
    lr: Callable[[int], float]
    evaluate_every: int = 1
    evaluate_clients_every: int = 0
    quorum: int = 1
    stopping: StoppingSection = field(default_factory=StoppingSection)
    protocol: Callable[[RoundSetup], RoundProtocol] = SynchronousRounds
    leave_one_out: int = 0

    def due(self, every: int, round_number: int) -> bool:
        return round_number == self.num_rounds or (every > 0 and round_number % every == 0)


class Coordinator:
    """Runs rounds. It does not depend on where clients run or on the algorithm."""

    def __init__(
        self,
        plan: RunPlan,
        strategy: Strategy,
        runtime: Runtime,
        trainable: frozenset[str],
        books: Bookkeeping,
        make_aggregator: Callable[[RoundContext, State], Aggregator],
        *,
        chain: TransformChain = TransformChain(),  # noqa: B008
        test: Evaluate | None = None,
        validation: Evaluate | None = None,
        measure: Measure | None = None,
        describe: Describe = lambda _total, _reports, _population: {},
        malicious: frozenset[str] = frozenset(),
        groups: Mapping[str, str] = MappingProxyType({}),
        over: Callable[[int], str | None] = lambda _round: None,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """`trainable`: names that clients train; `describe` says what else to record of a round; `malicious`: clients
        that attack; `groups`: client → what it has of modalities; `over` says why a round may not follow, None where it
        may; `note` is called with a line when a round is repeated."""
        self._plan = plan
        self._strategy = strategy
        self._runtime = runtime
        self._trainable = trainable
        self._books = books
        self._test = test
        self._validation = validation
        self._measure = measure
        self._describe = describe
        self._malicious = malicious
        self._groups = groups
        self._over = over
        self._population = Population(())
        self._leave_one_out = LeaveOneOut(plan.leave_one_out if validation else 0, make_aggregator, strategy)
        self._protocol = plan.protocol(
            RoundSetup(
                num_rounds=plan.num_rounds,
                sampler=plan.sampler,
                lr=plan.lr,
                quorum=plan.quorum,
                runtime=runtime,
                strategy=strategy,
                trainable=trainable,
                make_aggregator=self._leave_one_out.aggregator,
                single=self._leave_one_out.due,
                chain=chain,
                note=note,
            )
        )

    def run(self, checkpoint: Checkpoint) -> Checkpoint:
        """Run rounds from `checkpoint` to the end of the plan, or until the stopping rule ends the run; gives the last
        checkpoint, which is on disk then.

        Raises:
            NotEnoughClients, TrainingDiverged, RuntimeFailure, CheckpointError: the last whole checkpoint stays.
        """
        if self._runtime.virtual_time is not None:
            self._runtime.virtual_time = checkpoint.virtual_time
        self._protocol.resume(checkpoint)
        checkpoint = replace(checkpoint, finished=checkpoint.finished or self._over(checkpoint.round + 1))
        while checkpoint.finished is None and checkpoint.round < self._plan.num_rounds:
            try:
                checkpoint = self._round(checkpoint)
            except PrivacyBudgetExceeded as spent:
                checkpoint = replace(checkpoint, finished=str(spent))
        self._books.wait()
        return checkpoint

    def _round(self, before: Checkpoint) -> Checkpoint:
        number, timer = before.round + 1, PhaseTimer()
        collected = self._protocol.collect(before, number, timer)
        with timer.phase("aggregate"), one_thread():
            after = replace(
                before,
                round=number,
                state=self._step(before.state, collected),
                versions=advanced(before.versions, collected.reports),
                virtual_time=self._runtime.virtual_time or before.virtual_time,
                pending_tasks=self._protocol.pending(),
                kept=collected.kept,
                finished=self._over(number + 1),
            )
            record = self._record(after, before.state, collected, timer.seconds)
        with timer.phase("evaluate"):
            record, after = self._evaluated(record, after)
        if self._leave_one_out.due(number):
            with timer.phase("leave_one_out"):
                told = self._contributions(before.state, collected, after, record.validation)
                record = replace(record, contributions=told)
            self._leave_one_out.forget()
        with timer.phase("checkpoint"):
            self._books.wait()
        self._books.file(record, after, after.state.shared if after.progress.best_round == number else None)
        return after

    def _step(self, state: ServerState, collected: CollectedRound) -> ServerState:
        ctx = collected.ctx
        if collected.total is None:
            if all(failure.reason.startswith(BUDGET_SPENT) for failure in collected.failures):
                raise PrivacyBudgetExceeded(f"round {ctx.round}: no client that was asked has any privacy budget left")
            reasons = "; ".join(sorted({failure.reason for failure in collected.failures}))
            raise TrainingDiverged(
                f"round {ctx.round}: none of the {ctx.cohort} clients returned a usable update ({reasons}). "
                f"Try a smaller optimizer.lr (now {self._plan.lr(ctx.round):g}), optimizer.clip_norm=1 or "
                "optimizer.warmup_rounds=5, and look at the data with `fedlens data show`"
            )
        after = self._strategy.step(state, collected.total, ctx)
        broken = [name for name, value in {**after.extra, **after.shared}.items() if not all_finite([value])]
        if broken:
            raise TrainingDiverged(
                f"round {ctx.round}: the server's step made numbers that are not finite, in {broken[0]}. The run is "
                "kept as it was before. Try a smaller optimizer.lr, or a smaller strategy.server_lr where the strategy "
                "has one; among sites that may lie, aggregation.name=median or another rule that tolerates lies"
            )
        return after

    def _record(
        self, after: Checkpoint, before: ServerState, collected: CollectedRound, seconds: Mapping[str, float]
    ) -> RoundRecord:
        return RoundRecord(
            round=after.round,
            lr=self._plan.lr(after.round),
            reports=collected.reports,
            failures=collected.failures,
            update_norm=l2_norm(after.state.shared[name] - before.shared[name] for name in sorted(self._trainable)),
            bytes_down=measured(collected.reports, "bytes_down"),
            bytes_up=measured(collected.reports, "bytes_up"),
            seconds=seconds,
            virtual_seconds=None if self._runtime.virtual_time is None else after.virtual_time.now,
            measures=self._measures(before, collected),
        )

    def _measures(self, before: ServerState, collected: CollectedRound) -> dict[str, float]:
        length = {"norm/model": l2_norm(before.shared[name] for name in sorted(self._trainable))}
        if not collected.total:
            return length
        return {**self._describe(collected.total, collected.reports, self._everybody()), **length}

    def _everybody(self) -> Population:
        """All known clients; counted again only where they have changed."""
        known = self._runtime.known()
        if known is not self._population.clients:
            self._population = Population(known)
        return self._population

    def _evaluated(self, record: RoundRecord, after: Checkpoint) -> tuple[RoundRecord, Checkpoint]:
        """Record and checkpoint with the evaluations' results. Test results do not influence stopping."""
        population = self._everybody()
        if self._plan.due(self._plan.evaluate_every, after.round):
            more = self._measure(after.state.shared) if self._measure else {}
            record = replace(
                record,
                test=scored(self._test, after, population),
                validation=scored(self._validation, after, population),
                measures={**record.measures, **more},
                chance=population.chance,
            )
        if record.validation is not None:
            progress = after.progress.after(after.round, record.validation, self._plan.stopping)
            finished = progress.verdict(record.validation, self._plan.stopping)
            after = replace(after, progress=progress, finished=after.finished or finished)
        every = self._plan.evaluate_clients_every
        if every and (after.finished or self._plan.due(every, after.round)):
            clients = self._at_clients(after, population)
            more = accuracy_of_groups(clients, self._groups)
            record = replace(record, clients=clients, chance=population.chance, measures={**record.measures, **more})
        return record, after

    def _contributions(
        self, before: ServerState, collected: CollectedRound, after: Checkpoint, known: Evaluation | None
    ) -> Mapping[str, float]:
        """What each update of the round is worth. `known`: the validation of the model of all, if it was made."""
        validation = self._validation
        assert validation is not None  # else no round is due
        whole = known or validation(after)
        if whole is None:
            return {}

        def accuracy(state: ServerState) -> float | None:
            found = validation(replace(after, state=state))
            return None if found is None else found.accuracy

        return self._leave_one_out.contributions(before, collected, whole.accuracy, accuracy)

    def _at_clients(self, after: Checkpoint, population: Population) -> tuple[ClientEvaluation, ...]:
        """Every client's accuracy on its own test images."""
        clients = {client.name: client for client in self._runtime.clients() if client.holds("test")}
        settings = TaskSettings(lr=self._plan.lr(after.round))
        self._runtime.submit(
            Task(name, after.round, "evaluate", after.state.shared, settings, after.versions.get(name))
            for name in clients
        )
        results = {
            outcome.client: outcome for outcome in self._runtime.completed() if isinstance(outcome, ClientResult)
        }
        label = population.label
        return tuple(
            replace(
                client_evaluation(results[name], name in after.versions),
                malicious=name in self._malicious,
                majority=share(np.array(client.counts["test"]), label),
                own_majority=own_majority(client, "test"),
            )
            for name, client in clients.items()
            if name in results
        )


def scored(evaluate: Evaluate | None, after: Checkpoint, population: Population) -> Evaluation | None:
    """The result of `evaluate`, with the shared model's majority-class baseline where it has none of its own."""
    found = evaluate(after) if evaluate else None
    if found is None or found.majority is not None:
        return found
    return replace(found, majority=population.of_confusion(found.confusion))


def client_evaluation(result: ClientResult, trained: bool) -> ClientEvaluation:
    """The result of an evaluation task, as a record."""
    metrics, examples = result.report.metrics, int(result.report.weight)
    shared = metrics["shared.accuracy"].value if "shared.accuracy" in metrics else None
    return ClientEvaluation(result.client, metrics["accuracy"].value, metrics["loss"].value, examples, trained, shared)


def advanced(versions: Mapping[str, int | None], reports: Sequence[ClientReport]) -> dict[str, int | None]:
    """The versions of the clients' private stores after these updates were counted, in their order."""
    after = dict(versions)
    for report in reports:
        after[report.client] = following(after.get(report.client)) if report.stored else None
    return after


def measured(reports: Sequence[ClientReport], metric: str) -> int:
    """A metric's total over the reports."""
    return int(sum(report.metrics[metric].total for report in reports if metric in report.metrics))
