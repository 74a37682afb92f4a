"""The text before the first round: what is about to run, and warnings about it."""

from __future__ import annotations

from collections.abc import Mapping

from fedlens.build.builders import build_plan
from fedlens.build.experiment import Experiment
from fedlens.build.secure import described
from fedlens.build.vectorized import one_by_one
from fedlens.config.blocks import PRIVACY
from fedlens.config.schema import Config
from fedlens.core.fonts import missing_note
from fedlens.core.words import count
from fedlens.data.types import FederatedData
from fedlens.privacy.ledger import Spent
from fedlens.privacy.release import Claim
from fedlens.runtimes.base import Runtime
from fedlens.tracking.intervals import wilson
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.summary import algorithm_name
from fedlens.tracking.wording import claimed, epsilon

ENOUGH_VALIDATION = 100
"""Images; with fewer, a 95 % interval is wider than 20 points."""


def header(experiment: Experiment, folder: RunDir, runtime: Runtime, privacy: Claim | None = None) -> Mapping[str, str]:
    """A summary of the run that is about to start."""
    config, data, clients = experiment.config, experiment.images, runtime.known()
    parameters = sum(value.numel() for value in experiment.model.parameters())
    examples, unit = sum(client.examples for client in clients), data.report.unit
    hidden = any(client.hidden for client in clients)
    of = f"training {unit}s"
    held = f"which do not tell how many {of} they hold" if hidden else f"holding {examples:,} {of}"
    return {
        "data": data_line(data, len(clients)),
        "model": f"{config.model.name}, {parameters:,} parameters, {experiment.resident.vector.numel():,} trained",
        "strategy": algorithm_name(config.model_dump(mode="json")),
        "clients": f"{len(clients):,}, {held} of {len(data.class_names)} classes",
        **_privacy(config, privacy, len(clients)),
        "device": f"{experiment.device}{_divided(experiment, runtime)}{_together(experiment)}",
        "folder": str(folder.path),
    }


def _divided(experiment: Experiment, runtime: Runtime) -> str:
    """ " · 2 workers of 1 thread"; nothing of one thread alone, and nothing of sites."""
    workers, threads = runtime.at_once, experiment.config.runtime.threads_per_worker
    if workers * threads == 1 or not experiment.images.clients:
        return ""
    return f" · {count(workers, 'worker')} of {count(threads, 'thread')}"


def _together(experiment: Experiment) -> str:
    """ " · 8 clients of a worker train together"."""
    clients = experiment.config.runtime.vectorize
    return "" if clients == 1 or one_by_one(experiment) else f" · {clients} clients of a worker train together"


def _privacy(config: Config, claimed: Claim | None, clients: int) -> Mapping[str, str]:
    """What the run claims and hides, or that it claims nothing although updates are changed."""
    said = claim(claimed, config.federated.num_rounds) if claimed else PRIVACY.choose(config.privacy).disclaimer
    parts = [said] if said else []
    if config.privacy.secure_aggregation:
        cohort = round(claimed.cohort) if claimed else build_plan(config).sampler.fewest(clients)
        parts += [described(config, cohort)]
    return {"privacy": " · ".join(parts)} if parts else {}


def claim(privacy: Claim, rounds: int) -> str:
    """ "ε = 3.2 at δ = 1e-05 after 100 rounds, by PLD · σ 1.1 · clip 1 · 100 of 1,000 clients a round"."""
    after = privacy.epsilon(Spent(rounds))
    terms = ", ".join(f"{name} {value:.4g}" for name, value in privacy.terms.items() if not isinstance(value, str))
    told = f"ε = {epsilon(after.value)} at δ = {privacy.delta:g} after {count(rounds, 'round')}, by {after.accountant}"
    cohort = [f"{privacy.cohort:,.4g} of {privacy.population:,} clients a round"] if privacy.population else []
    shared = ["noise added by the clients"] if privacy.shared else []
    return " · ".join((claimed(told, insecure=privacy.insecure), terms, privacy.clipping, *cohort, *shared))


def data_line(data: FederatedData, clients: int) -> str:
    """ "imagefolder PHOTOS · 200 images · 4 classes · dirichlet α 0.3 · 4 clients"; of a server, what it tests on."""
    report, simulated, rows = data.report, bool(data.clients), len(data.labels)
    parts = [
        report.source or "the sites' own",
        *([f"{rows:,} {report.unit}s{'' if simulated else ' here, for tests'}"] if rows else []),
        f"{len(data.class_names)} classes",
        *([report.scheme] if simulated and report.scheme else []),
        count(clients, "client"),
    ]
    return " · ".join(parts)


def few_validation_images(experiment: Experiment, runtime: Runtime) -> str | None:
    """A warning where validation has so few images that chance decides; None where it has enough, or none at all."""
    if experiment.unmeasured:
        return None
    apart = experiment.malicious if experiment.partly_private else frozenset()
    examples = sum(sum(client.counts["val"]) for client in runtime.known() if client.name not in apart)
    interval, unit = wilson(0.5, examples), experiment.images.report.unit
    if interval is None or examples >= ENOUGH_VALIDATION:
        return None
    return (
        f"validation has only {count(examples, unit)}: an accuracy of 50 % on them may be anything from "
        f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f} %, so early stopping and the best model depend on chance; "
        f"use more {unit}s, or a larger data.validation (now {experiment.config.data.validation:g})"
    )


def font_notes(experiment: Experiment) -> list[str]:
    """Warnings for names that the trackers' pictures cannot show."""
    data, tracking = experiment.images, experiment.config.tracking
    names = (*map(experiment.shown, data.class_names), *(client.name for client in data.clients))
    note = missing_note(names) if tracking.tensorboard or tracking.mlflow or tracking.wandb else None
    return [note] if note else []
