"""The figures of a model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedlens.core.words import count
from fedlens.export.source import Source
from fedlens.reports.headline import Headline
from fedlens.tracking.clients import worst_clients
from fedlens.tracking.intervals import wilson
from fedlens.tracking.summary import best_round, is_personal, last_with, percent
from fedlens.tracking.wording import UNUSED, in_full, spent_privacy

Row = tuple[str, str]


def which_model(source: Source) -> str:
    """One sentence: of the models that a run has, the one in the folder."""
    if source.client is not None:
        return f"This is the model that the client {source.client} uses itself."
    if source.best:
        line = best_round(source.run.metrics) or {}
        return f"This is the shared model of round {line.get('round', '–')}, which has the lowest validation loss."
    return "This is the shared model of the last round."


def data_rows(source: Source, figures: Headline) -> Iterator[Row]:
    """How the model was made: method, and data as counts."""
    how = source.trained.description
    yield "method", figures.strategy
    yield "model", f"{_model(source)}, {count(how.num_classes, 'class')}, {how.image_size} × {how.image_size} pixels"
    yield "weights before training", _begun(source)
    yield "rounds", f"{figures.rounds:,}"
    yield "clients", f"{figures.clients:,}" if figures.clients else "not told"
    yield "how images were divided", figures.partition
    if figures.private:
        yield "images", "not told: ε does not cover how many there are"
        return
    held = source.run.partition.get("clients", {}).values()
    train = [sum(splits.get("train", ())) for splits in held]
    if train:
        yield "training images", f"{sum(train):,}; a client has from {min(train):,} to {max(train):,}"
    yield "test images", f"{sum(source.run.partition.get('test', ())):,}"


def _model(source: Source) -> str:
    """lenet; vit with variant=tiny, norm=group."""
    how = source.trained.description
    keys = {**how.parameters, **({} if how.norm == "batch" else {"norm": how.norm})}
    own = ", ".join(f"{key}={value}" for key, value in keys.items())
    return f"{how.builder} with {own}" if own else str(how.builder)


def _begun(source: Source) -> str:
    section = source.run.config.get("model", {})
    if section.get("weights"):
        return "those of a file"
    return "those published for ImageNet" if section.get("pretrained") else "random"


def accuracy_rows(source: Source, figures: Headline) -> Iterator[Row]:
    """Of this model where it was measured, and over the clients at the end of the run."""
    metrics, personal = source.run.metrics, is_personal(source.run.config)
    clients = last_with(metrics, "clients") or {}
    if source.client is not None:
        yield "of this model, on the client's own test images", _own(source.client, clients)
    else:
        line = best_round(metrics) if source.best else None
        test = line["test"] if line else last_with(metrics, "test")
        yield "test accuracy", in_full(test or {}) + (f" ({UNUSED})" if personal else "")
    if clients.get("accuracy") is None:
        yield "of the clients", "not measured"
        return
    when = " of the last round" if source.best else ""
    yield f"mean over clients{when}, each on its own test images", in_full(clients, personal)
    yield worst_clients(clients.get("evaluated")), percent(clients.get("accuracy_worst_tenth"))
    best = worst_clients(clients.get("evaluated")).replace("worst", "best")
    yield best, percent(clients.get("accuracy_best_tenth"))
    yield "standard deviation over clients", percent(clients.get("accuracy_deviation"))


def _own(client: str, clients: Mapping[str, Any]) -> str:
    found = next((one for one in clients.get("by_client", ()) if one.get("client") == client), None)
    if not found or not found.get("examples") or found.get("accuracy") is None:
        return "not measured"
    low, high = wilson(found["accuracy"], found["examples"]) or (None, None)
    return in_full({**found, "accuracy_low": low, "accuracy_high": high})


def privacy_lines(source: Source, figures: Headline) -> Iterator[str]:
    """What is claimed of the run, and what is not."""
    if not figures.private:
        yield (
            "Training had no differential privacy. Things about single training images can be found out from such a "
            "model: do not give it to those who must not know them."
        )
        return
    yield f"The run claims {spent_privacy(figures.epsilon, source.run.config)}."
    if source.client is not None:
        yield (
            "That is for what leaves a client. This model is a client's own, and may be fitted to its images beyond "
            "that: no ε is claimed for it."
        )
    yield "The figures under Accuracy were measured without noise, and are not covered by ε."


def images_by_class(source: Source) -> dict[str, Sequence[int]]:
    """Counts by class, in order: of training images of all clients, and of test images."""
    partition = source.run.partition
    held = [splits.get("train", ()) for splits in partition.get("clients", {}).values()]
    columns = {
        "training images": [sum(counts) for counts in zip(*held, strict=False)],
        "test images": list(partition.get("test", ())),
    }
    return {name: column for name, column in columns.items() if column}
