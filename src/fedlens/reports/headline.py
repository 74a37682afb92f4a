"""The headline figures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedlens.reports.load import LoadedRun
from fedlens.tracking.state import State, state_of
from fedlens.tracking.summary import algorithm_name, best_round, edge_bytes, is_personal, last_with, time_of_rounds
from fedlens.tracking.wording import majority


@dataclass(frozen=True)
class Headline:
    """Accuracies are 0–1 and on test images; None: not measured. `best_…`: at the round with the best validation loss.

    `megabytes` counts both directions (10⁶ bytes); `seconds`: see `time_of_rounds`; `virtual_seconds`: the time of the
    simulated clients' clock at the end.
    """

    run: str
    model: str
    strategy: str
    """With all non-default parts: "fedavg + fedper", "fedavg + krum, 20 % attack by sign_flip"."""
    data: str
    """The source of the images: "imagefolder PHOTOS"."""
    partition: str
    """The partition scheme: "dirichlet α 0.3"."""
    fingerprint: str | None
    """Identifies the data set; equal for the same images."""
    clients: int | None
    rounds: int
    missing_rounds: int
    """Completed rounds without a line in metrics.jsonl, which no figure includes."""
    planned_rounds: int | None
    personal: bool
    """Clients use their own models, which `client_accuracy` describes: no client uses the shared one."""
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    """95 % interval of the accuracy over images."""
    examples: int | None
    """Test images."""
    chance: float | None
    majority: float | None
    """Accuracy on the test images of always predicting the most frequent training class."""
    best_accuracy: float | None
    best_round: int | None
    balanced_accuracy: float | None
    auroc: float | None
    client_accuracy: float | None
    """Mean over clients of each client's model on its own test images."""
    client_accuracy_low: float | None
    client_accuracy_high: float | None
    """95 % interval of that mean over clients."""
    client_examples: int | None
    """Test images of all evaluated clients."""
    client_majority: float | None
    """Mean over clients of the accuracy of always predicting the most frequent training class: each client's own, if
    `personal`."""
    client_accuracy_worst_tenth: float | None
    client_accuracy_deviation: float | None
    evaluated_clients: int | None
    """The number of clients included: benign clients that have trained."""
    shared_accuracy: float | None
    """Mean over clients of the shared model's accuracy on the clients' own test images, if clients use their own
    models."""
    image_only_accuracy: float | None
    text_only_accuracy: float | None
    """On complete test rows, of which the model sees one modality."""
    zero_shot_accuracy: float | None
    """On images of held-out classes, among their names."""
    found_by_text: float | None
    """Share of test texts whose image is among the first 10 found."""
    private: bool
    """The run counts what it spends of privacy."""
    epsilon: float | None
    """ε spent by the last round; None also for ∞, without noise."""
    megabytes: float
    edge_megabytes: float | None
    """Between the server and its edge aggregators; None without these."""
    seconds: float
    virtual_seconds: float | None
    status: State


def headline(run: LoadedRun) -> Headline:
    planned = run.config.get("federated", {}).get("num_rounds")
    rounds = max([run.folder.rounds_done, *(line["round"] for line in run.metrics)])
    test, edges = last_with(run.metrics, "test") or {}, edge_bytes(run.metrics)
    clients = last_with(run.metrics, "clients") or {}
    best, personal = best_round(run.metrics) or {}, is_personal(run.config)
    measured = {name: value for line in run.metrics for name, value in line.get("measures", {}).items()}
    return Headline(
        run=run.folder.name,
        model=_block(run.config, "model"),
        strategy=algorithm_name(run.config),
        data=_data(run),
        partition=run.data.get("scheme") or str(run.config.get("data", {}).get("partition", {}).get("scheme", "–")),
        fingerprint=run.fingerprint,
        clients=len(run.partition["clients"]) if run.partition else None,
        rounds=rounds,
        missing_rounds=len(run.missing_rounds),
        planned_rounds=planned,
        personal=personal,
        accuracy=test.get("accuracy"),
        accuracy_low=test.get("accuracy_low"),
        accuracy_high=test.get("accuracy_high"),
        examples=test.get("examples"),
        chance=test.get("chance", clients.get("chance")),
        majority=test.get("majority"),
        best_accuracy=(best.get("test") or {}).get("accuracy"),
        best_round=best.get("round"),
        balanced_accuracy=test.get("balanced_accuracy"),
        auroc=test.get("auroc"),
        client_accuracy=clients.get("accuracy"),
        client_accuracy_low=clients.get("accuracy_low"),
        client_accuracy_high=clients.get("accuracy_high"),
        client_examples=clients.get("examples"),
        client_majority=majority(clients, personal),
        client_accuracy_worst_tenth=clients.get("accuracy_worst_tenth"),
        client_accuracy_deviation=clients.get("accuracy_deviation"),
        evaluated_clients=clients.get("evaluated"),
        shared_accuracy=clients.get("shared_accuracy"),
        image_only_accuracy=measured.get("modality/image_only"),
        text_only_accuracy=measured.get("modality/text_only"),
        zero_shot_accuracy=measured.get("zero_shot/held_out"),
        found_by_text=measured.get("retrieval/text_to_image_at_10"),
        private=any("privacy/epsilon" in line.get("measures", {}) for line in run.metrics),
        epsilon=run.metrics[-1].get("measures", {}).get("privacy/epsilon") if run.metrics else None,
        megabytes=sum(line["bytes_up"] + line["bytes_down"] for line in run.metrics) / 1e6,
        edge_megabytes=None if edges is None else sum(edges) / 1e6,
        seconds=time_of_rounds(run.metrics),
        virtual_seconds=run.metrics[-1].get("virtual_seconds") if run.metrics else None,
        status=_status(run, rounds == planned),
    )


def _status(run: LoadedRun, all_done: bool) -> State:
    """A run that has done all its rounds has finished, whatever became of its end."""
    if run.result:
        return "finished"
    state, _ = state_of(run.folder)
    return "finished" if all_done and state in ("stopped", "elsewhere") else state


def _block(config: Mapping[str, Any], section: str) -> str:
    return str(config.get(section, {}).get("name", "–"))


def _data(run: LoadedRun) -> str:
    """The source recorded by the run, or else that of its configuration."""
    section = run.config.get("data", {})
    return str(run.data.get("source") or " ".join(str(section[key]) for key in ("source", "path") if section.get(key)))
