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

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fedlens.core.types import ClientFailure, ClientInfo, ClientResult, State, Task, TaskSettings
from fedlens.core.words import by_reason
from fedlens.errors import FedLensError
from fedlens.federation.checkpoints import Checkpoint
from fedlens.runtimes.base import Outcome, Runtime

MOST_CLIENTS = 30
"""n clients try n models each."""


@dataclass(frozen=True)
class CrossSite:
    """accuracy: owner of a model → client → accuracy on that client's test images. shared: client → that of the shared
    model; empty where parts of it are private. images: client → its test images. left_out: client → why it takes no
    part. gaps: client → why it has not tried some of the models."""

    accuracy: Mapping[str, Mapping[str, float]]
    shared: Mapping[str, float]
    images: Mapping[str, int]
    left_out: Mapping[str, str]
    gaps: Mapping[str, str]


@dataclass(frozen=True)
class CrossSiteEvaluation:
    """Asks the clients of a finished run.

    own     clients predict with models of their own; else each trains the shared one once more
    shared  the shared model is a whole one, and is tried, too
    lr      the clients' learning rate after a round
    except_for  clients that are not asked: those that attack
    spool   folder for the models while they are tried: one of them is in memory at a time
    """

    runtime: Runtime
    own: bool
    shared: bool
    lr: Callable[[int], float]
    except_for: frozenset[str]
    spool: Path
    note: Callable[[str], None]

    def __call__(self, end: Checkpoint) -> CrossSite:
        """The accuracies at the run's last checkpoint.

        Raises:
            FedLensError: the models cannot be kept on the disk meanwhile.
        """
        taking_part, left_out = self._clients(end)
        gaps: dict[str, str] = {}
        with _empty(self.spool) as spool:
            models = dict(self._own_models(end, taking_part, left_out, spool))
            tested = [client for client in taking_part if client.name in models and client.holds("test")]
            accuracy = {
                owner: self._tried(load_file(path), number, end, tested, gaps)
                for number, (owner, path) in enumerate(models.items())
            }
        whole = self.shared and bool(tested)
        shared = self._tried(end.state.shared, len(models), end, tested, gaps) if whole else {}
        for what, reasons in (("without", left_out), ("has gaps:", gaps)):
            if reasons:
                self.note(f"cross-site evaluation {what} {by_reason(reasons)}")
        images = {client.name: sum(client.counts["test"]) for client in tested}
        found = CrossSite(accuracy, shared, images, left_out, gaps)
        self.note(sentence(found))
        return found

    def _clients(self, end: Checkpoint) -> tuple[list[ClientInfo], dict[str, str]]:
        """Those that take part, of many those that have trained, and why others do not."""
        here = self.runtime.clients()
        names = {client.name for client in here}
        left_out = {client.name: "it is away" for client in self.runtime.known() if client.name not in names}
        left_out |= {client.name: reason for client in here if (reason := self._unfit(client, end))}
        fit = [client for client in here if client.name not in left_out]
        fit.sort(key=lambda client: client.name not in end.versions)
        left_out |= {client.name: f"only {MOST_CLIENTS} take part" for client in fit[MOST_CLIENTS:]}
        return fit[:MOST_CLIENTS], left_out

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
        settings = TaskSettings(self.lr(end.round))
        tasks = [
            Task(client.name, end.round, "own_model", end.state.shared, settings, end.versions.get(client.name))
            for client in clients
        ]
        files = {client.name: spool / f"{number}.safetensors" for number, client in enumerate(clients)}
        for result in self._results(tasks, left_out):
            model = {name: value.contiguous() for name, value in result.payload.items()}
            try:
                save_file(model, files[result.client])
            except (OSError, SafetensorError) as error:
                raise FedLensError(
                    f"{spool}: a client's model cannot be kept there for the cross-site evaluation ({error}). The "
                    "run's own model is saved: make room, and go on with `fedlens resume`"
                ) from error
        yield from ((name, file) for name, file in files.items() if file.exists())

    def _tried(
        self, model: State, number: int, end: Checkpoint, clients: Sequence[ClientInfo], gaps: dict[str, str]
    ) -> dict[str, float]:
        """Client → accuracy of `model` there. `number` tells the models of a run apart."""
        settings = TaskSettings(repeat=number)
        tasks = [Task(client.name, end.round, "evaluate_given", model, settings) for client in clients]
        found = {one.client: one.report.metrics["accuracy"].value for one in self._results(tasks, gaps)}
        return {client.name: found[client.name] for client in clients if client.name in found}

    def _results(self, tasks: Sequence[Task], failed: dict[str, str]) -> Iterator[ClientResult]:
        self.runtime.submit(tasks)
        outcome: Outcome
        for outcome in self.runtime.completed():
            if isinstance(outcome, ClientResult):
                yield outcome
            elif isinstance(outcome, ClientFailure):
                failed[outcome.client] = outcome.reason


def sentence(found: CrossSite) -> str:
    """ "clients' own models: 61.2 % on their own test images, 34.5 % on the others' (…)"."""
    home = [row[owner] for owner, row in found.accuracy.items() if owner in row]
    away = [value for owner, row in found.accuracy.items() for name, value in row.items() if name != owner]
    if not home or not away:
        return "cross-site evaluation: fewer than two clients with test images took part, so nothing is compared"
    at_home, elsewhere = f"{100 * fmean(home):.1f} %", f"{100 * fmean(away):.1f} %"
    return (
        f"clients' own models: {at_home} on their own test images, {elsewhere} on the others' (means); "
        "cross-site.json has each at each"
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
