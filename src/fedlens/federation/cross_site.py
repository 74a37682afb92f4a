"""Cross-site evaluation: each client's own model on each client's test images, after the last round.

Clients' models travel for this: each goes to the server, and from there to the others. So it is off unless
`federated.cross_site` asks for it, and a site takes part only if its own rules allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from statistics import fmean

from safetensors.torch import load_file, save_file

from fedlens.core.types import ClientFailure, ClientInfo, ClientResult, State, Task, TaskSettings
from fedlens.core.words import by_reason, count
from fedlens.federation.checkpoints import Checkpoint
from fedlens.runtimes.base import Outcome, Runtime

MOST_CLIENTS = 30
"""n clients try n models each."""


@dataclass(frozen=True)
class CrossSite:
    """accuracy: owner of a model → client → accuracy on that client's test images. shared: client → that of the shared
    model; empty where parts of it are private. images: client → its test images. left_out: client → why it, or
    something of it, is missing."""

    accuracy: Mapping[str, Mapping[str, float]]
    shared: Mapping[str, float]
    images: Mapping[str, int]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class CrossSiteEvaluation:
    """Asks the clients of a finished run.

    own     clients predict with models of their own; else each trains the shared one once more
    shared  the shared model is a whole one, and is tried, too
    lr      the clients' learning rate
    except_for  clients that are not asked: those that attack
    spool   folder for the models while they are tried: one of them is in memory at a time
    """

    runtime: Runtime
    own: bool
    shared: bool
    lr: float
    except_for: frozenset[str]
    spool: Path
    note: Callable[[str], None]

    def __call__(self, end: Checkpoint) -> CrossSite:
        """The accuracies at the run's last checkpoint."""
        taking_part, left_out = self._clients(end)
        with _empty(self.spool) as spool:
            models = dict(self._own_models(end, taking_part, left_out, spool))
            tested = [client for client in taking_part if client.name in models and client.holds("test")]
            accuracy = {
                owner: self._tried(load_file(path), number, end, tested, left_out)
                for number, (owner, path) in enumerate(models.items())
            }
        whole = self.shared and bool(tested)
        shared = self._tried(end.state.shared, len(models), end, tested, left_out) if whole else {}
        if left_out:
            missing = count(len(left_out), "client")
            self.note(f"cross-site evaluation: of {missing} something is missing: {by_reason(left_out)}")
        images = {client.name: sum(client.counts["test"]) for client in tested}
        found = CrossSite(accuracy, shared, images, left_out)
        self.note(sentence(found))
        return found

    def _clients(self, end: Checkpoint) -> tuple[list[ClientInfo], dict[str, str]]:
        """Those that take part, and why others do not."""
        taking_part: list[ClientInfo] = []
        left_out: dict[str, str] = {}
        for client in self.runtime.clients():
            if reason := self._unfit(client, end):
                left_out[client.name] = reason
            elif len(taking_part) == MOST_CLIENTS:
                left_out[client.name] = f"only the first {MOST_CLIENTS} take part"
            else:
                taking_part.append(client)
        return taking_part, left_out

    def _unfit(self, client: ClientInfo, end: Checkpoint) -> str | None:
        if not client.cross_site:
            return "its site does not allow it (allow.cross_site in its site.yaml)"
        if client.name in self.except_for:
            return "it attacks"
        if self.own and client.name not in end.versions:
            return "it has never trained"
        return None

    def _own_models(
        self, end: Checkpoint, clients: Sequence[ClientInfo], left_out: dict[str, str], spool: Path
    ) -> Iterator[tuple[str, Path]]:
        """Name and file of each model, in the order of `clients`."""
        settings = TaskSettings(self.lr)
        tasks = [
            Task(client.name, end.round, "own_model", end.state.shared, settings, end.versions.get(client.name))
            for client in clients
        ]
        files = {client.name: spool / f"{number}.safetensors" for number, client in enumerate(clients)}
        for result in self._results(tasks, left_out):
            save_file({name: value.contiguous() for name, value in result.payload.items()}, files[result.client])
        yield from ((name, file) for name, file in files.items() if file.exists())

    def _tried(
        self, model: State, number: int, end: Checkpoint, clients: Sequence[ClientInfo], left_out: dict[str, str]
    ) -> dict[str, float]:
        """Client → accuracy of `model` there. `number` tells the models of a run apart."""
        settings = TaskSettings(self.lr, repeat=number)
        tasks = [Task(client.name, end.round, "evaluate_given", model, settings) for client in clients]
        found = {one.client: one.report.metrics["accuracy"].value for one in self._results(tasks, left_out)}
        return {client.name: found[client.name] for client in clients if client.name in found}

    def _results(self, tasks: Sequence[Task], left_out: dict[str, str]) -> Iterator[ClientResult]:
        self.runtime.submit(tasks)
        outcome: Outcome
        for outcome in self.runtime.completed():
            if isinstance(outcome, ClientResult):
                yield outcome
            elif isinstance(outcome, ClientFailure):
                left_out[outcome.client] = outcome.reason


def sentence(found: CrossSite) -> str:
    """ "clients' own models: 61.2 % on their own test images, 34.5 % on the others' (…)"."""
    home = [row[owner] for owner, row in found.accuracy.items() if owner in row]
    away = [value for owner, row in found.accuracy.items() for name, value in row.items() if name != owner]
    if not home or not away:
        return "cross-site evaluation: fewer than two clients with test images took part, so nothing is compared"
    at_home, elsewhere = f"{100 * fmean(home):.1f} %", f"{100 * fmean(away):.1f} %"
    return (
        f"clients' own models: {at_home} on their own test images, {elsewhere} on the others' (means over clients); "
        "report.html shows each at each"
    )


@contextmanager
def _empty(folder: Path) -> Iterator[Path]:
    """A new folder, removed at the end; what an attempt that was killed has left is removed first."""
    rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)
