"""Whether federating helps: every model on every client's own test images and on the global ones, and what it says.

Intervals are Student's t over seeds: three or more are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from fedlens.core.words import count
from fedlens.data.types import ClientRows
from fedlens.errors import DataError
from fedlens.federation.cross_site import MOST_CLIENTS
from fedlens.inference.scores import Scores, own_scores, shared_scores
from fedlens.reports.means import Mean
from fedlens.sweeps.baselines import CENTRAL, FEDERATION, LOCAL, TUNED, Trio
from fedlens.tracking.run_dir import RunDir

EVERYWHERE = ""
"""The global test images, among the sets that clients are named by."""

FEW_IMAGES = 20
"""With fewer test images one of them is more than five points."""

Verdict = Literal["gains", "loses", "open"]
Seen = Callable[[str], Callable[[int, int], None]]
"""Name of a step → what to call with (done, all)."""


@dataclass(frozen=True)
class Measured:
    """What the models of one seed reach.

    own         model → client → its accuracy on the client's own test images
    everywhere  model → accuracy on the global test images; of models that differ by client the mean
    crossed     client → client: the accuracy of the first one's local model on the second one's test images; and such
                rows for the shared models
    """

    own: Mapping[str, Mapping[str, float]]
    everywhere: Mapping[str, float]
    crossed: Mapping[str, Mapping[str, float]]

    def gain(self, model: str, names: Sequence[str]) -> float:
        """Over training alone, the mean over these clients."""
        return fmean(self.own[model][name] - self.own[LOCAL][name] for name in names)

    def knows(self, name: str) -> bool:
        """Every model was measured at the client."""
        return all(name in found for found in self.own.values())


def measure(trio: Trio, runs: Mapping[str, RunDir], seen: Seen) -> Measured:
    """Try the models of one seed's finished runs. runs: label of a point → its run."""
    names = [client.name for client in trio.images.clients]
    sets = {EVERYWHERE: trio.images.test, **{client.name: client.test for client in trio.images.clients}}
    at_home = {name: {EVERYWHERE: sets[EVERYWHERE], name: sets[name]} for name in names}
    few = len(names) <= MOST_CLIENTS
    federation, local, central = (runs[point.label] for point in trio.points)
    alone = own_scores(local, dict.fromkeys(names, sets) if few else at_home, seen("local models"))
    personal = own_scores(federation, at_home, seen(f"{trio.personal} models"))
    by_client = {LOCAL: alone, trio.personal: personal}
    shared = {FEDERATION: shared_scores(federation, sets), CENTRAL: shared_scores(central, sets)}
    shared = {model: scores for model, scores in shared.items() if scores}
    on_clients = {model: _accuracies(scores, names) for model, scores in shared.items()}
    own = {model: _at_home(found) for model, found in by_client.items()} | on_clients
    crossed = {name: _accuracies(scores, names) for name, scores in alone.items()} | on_clients
    return Measured(own, _everywhere(by_client, shared), crossed if few else {})


def _at_home(found: Mapping[str, Scores]) -> dict[str, float]:
    """Of each client's model, the accuracy on its own test images, where it has some."""
    return {name: scores[name].accuracy for name, scores in found.items() if name in scores}


def _accuracies(scores: Scores, names: Sequence[str]) -> dict[str, float]:
    return {name: scores[name].accuracy for name in names if name in scores}


def _everywhere(by_client: Mapping[str, Mapping[str, Scores]], shared: Mapping[str, Scores]) -> dict[str, float]:
    found = {model: list(scores.values()) for model, scores in by_client.items()}
    found |= {model: [scores] for model, scores in shared.items()}
    if not all(EVERYWHERE in scores for listed in found.values() for scores in listed):
        return {}
    return {model: fmean(scores[EVERYWHERE].accuracy for scores in listed) for model, listed in found.items()}


# -- over the seeds ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A client. train, test: how many images it holds. accuracy: model → mean over seeds; gains: model → its gain over
    training alone."""

    name: str
    train: int
    test: int
    accuracy: Mapping[str, Mean]
    gains: Mapping[str, Mean]


def verdict(gain: Mean) -> Verdict:
    """Open, where the interval has both signs, or is not known."""
    if gain.half is None or abs(gain.value) <= gain.half:
        return "open"
    return "gains" if gain.value > 0 else "loses"


@dataclass(frozen=True)
class Benefit:
    """What all seeds say.

    models      those that were measured, training alone first
    main        of the federation's models, shared and personal, the one that gains more in the mean
    sites       those that gain most first
    gains       model → its gain over training alone, the mean over sites
    everywhere  model → accuracy on the global test images
    crossed     as of `Measured`, the mean over seeds
    missing     clients that have no test images, or were never asked to train: nothing is said of them
    """

    seeds: int
    models: Sequence[str]
    main: str
    sites: Sequence[Site]
    gains: Mapping[str, Mean]
    everywhere: Mapping[str, Mean]
    crossed: Mapping[str, Mapping[str, float]]
    missing: Sequence[str]

    def sites_that(self, what: Verdict, model: str) -> list[Site]:
        """The sites of which the seeds say so."""
        return [site for site in self.sites if verdict(site.gains[model]) == what]


def benefit(trios: Sequence[Trio], found: Sequence[Measured]) -> Benefit:
    """Everything that was measured, over the seeds.

    Raises:
        DataError: there is no client of which all seeds tell all models.
    """
    models = [model for model in (LOCAL, FEDERATION, trios[0].personal, CENTRAL) if model in found[0].own]
    clients = trios[0].images.clients
    known = [client for client in clients if all(one.knows(client.name) for one in found)]
    if not known:
        raise DataError("no client has test images and was asked to train with every seed: more federated.num_rounds")
    names = [client.name for client in known]
    gains = {model: _mean([one.gain(model, names) for one in found]) for model in models if model != LOCAL}
    main = max((model for model in gains if model != CENTRAL), key=lambda model: gains[model].value)
    return Benefit(
        len(found),
        models,
        main,
        sorted((_site(client, models, found) for client in known), key=lambda site: -site.gains[main].value),
        gains,
        {model: _mean([one.everywhere[model] for one in found]) for model in found[0].everywhere},
        _crossed(found),
        [client.name for client in clients if client.name not in names],
    )


def _site(client: ClientRows, models: Sequence[str], found: Sequence[Measured]) -> Site:
    name = client.name
    accuracy = {model: _mean([one.own[model][name] for one in found]) for model in models}
    gains = {model: _mean([one.gain(model, [name]) for one in found]) for model in models if model != LOCAL}
    return Site(name, len(client.train), len(client.test), accuracy, gains)


def _crossed(found: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """The mean over the seeds, of what all of them know."""
    means: dict[str, dict[str, float]] = {}
    for row, columns in found[0].crossed.items():
        values = {name: [one.crossed.get(row, {}).get(name) for one in found] for name in columns}
        known = {name: mean for name, listed in values.items() if (mean := Mean.of(listed))}
        if known:
            means[row] = {name: mean.value for name, mean in known.items()}
    return means


def _mean(values: Sequence[float]) -> Mean:
    mean = Mean.of(values)
    assert mean is not None
    return mean


# -- in words ----------------------------------------------------------------------------------------------------------


def sentences(found: Benefit) -> Iterator[str]:
    """What it says, the most important first."""
    yield _headline(found)
    for model in found.gains:
        if model not in (found.main, CENTRAL):
            yield f"With {_called(model)}: {points(found.gains[model])}; {_counted(found, model)}"
    yield f"Everything in one place would give {points(found.gains[CENTRAL])} over training alone"


def _headline(found: Benefit) -> str:
    gain, what = found.gains[found.main], _called(found.main)
    told = f"{points(gain)} in the mean over {count(len(found.sites), 'site')}, with {what}"
    if gain.half is None:
        seeds = count(found.seeds, "seed")
        return f"Federating, against training alone: {told}. {seeds} cannot tell that from chance; use --seeds 3"
    words = {"gains": "Federating helps", "loses": "Federating harms", "open": "Federating may help or harm"}
    return f"{words[verdict(gain)]}: {told}; {_counted(found, found.main)}"


def _called(model: str) -> str:
    return {FEDERATION: "the shared model", TUNED: "the model fine-tuned at home"}.get(model, f"models of {model}")


def _counted(found: Benefit, model: str) -> str:
    """ "3 of 4 sites gain clearly, client2 (-2.4 ± 1.1) loses"."""
    gaining, losing = (found.sites_that(what, model) for what in ("gains", "loses"))
    told = f"{len(gaining)} of {count(len(found.sites), 'site')} gain clearly"
    if losing:
        told += f", {_named(losing, model)} {'loses' if len(losing) == 1 else 'lose'}"
    return told


def _named(sites: Sequence[Site], model: str, most: int = 4) -> str:
    named = ", ".join(f"{site.name} ({points(site.gains[model], unit='')})" for site in sites[:most])
    return named + (f" and {len(sites) - most} more" if len(sites) > most else "")


def points(mean: Mean, unit: str = " points") -> str:
    """ "+9.1 ± 4.0 points"."""
    half = "" if mean.half is None else f" ± {100 * mean.half:.1f}"
    return f"{round(100 * mean.value, 1) + 0:+.1f}{half}{unit}"  # + 0: never "-0.0"


def accuracy(mean: Mean | None) -> str:
    """ "83.1 ± 1.2 %"."""
    if mean is None:
        return "–"
    half = "" if mean.half is None else f" ± {100 * mean.half:.1f}"
    return f"{100 * mean.value:.1f}{half} %"


def table(found: Benefit) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A row for the global test images, then one for each site, those that gain most first."""
    head = ("site", "images", "test", *found.models, f"gain, {found.main}")
    rows = [
        (
            site.name,
            f"{site.train:,}",
            f"{site.test:,}",
            *(accuracy(site.accuracy[model]) for model in found.models),
            points(site.gains[found.main], unit=""),
        )
        for site in found.sites
    ]
    if found.everywhere:
        gain = 100 * (found.everywhere[found.main].value - found.everywhere[LOCAL].value)
        overall = (accuracy(found.everywhere.get(model)) for model in found.models)
        rows.insert(0, ("global test images", "", "", *overall, f"{gain:+.1f}"))
    return head, rows


def notes(found: Benefit) -> list[str]:
    """What the figures are."""
    lines = [
        "gain: over training alone, in points, on the site's own test images. A client makes as many steps alone as in "
        "the federation; one that tunes at home makes some more; one place makes those of all clients together",
        f"{found.main}: of the federation's models the one that gains more in the mean",
        "±: 95 % interval of the mean over seeds, by Student's t; clearly: it has one sign, which one site in twenty "
        "has by chance"
        if found.seeds > 2
        else "no intervals: fewer than three seeds",
    ]
    if found.everywhere:
        lines.append("global test images: of models that differ by client, the mean")
    if (fewest := min(site.test for site in found.sites)) < FEW_IMAGES:
        lines.append(f"a site has {fewest} test images alone: a larger data.client_test tells more")
    if found.missing:
        lines.append(f"left out, without test images or never asked to train: {', '.join(found.missing[:10])}")
    return lines
