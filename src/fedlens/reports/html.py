"""report.html: one self-contained page with all results of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlens.core.clean import escape
from fedlens.core.files import write_atomic
from fedlens.core.words import by_reason
from fedlens.reports.explained import explained
from fedlens.reports.figures import classes, clients, rounds
from fedlens.reports.figures.sites import crossed
from fedlens.reports.headline import Headline, headline
from fedlens.reports.load import LoadedRun, load_run
from fedlens.reports.nearest_texts import nearest_texts
from fedlens.reports.page import page, plot, section, table, warning
from fedlens.reports.pictures import galleries
from fedlens.reports.uses import FIGURES
from fedlens.tracking.clients import worst_clients
from fedlens.tracking.findings import problems
from fedlens.tracking.missing_rounds import missing_note
from fedlens.tracking.next_steps import commands_of
from fedlens.tracking.summary import duration, edge_bytes, is_personal, last_with, percent, saved_of_whole
from fedlens.tracking.wording import UNUSED, floors, measured_on, spent_privacy


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a finished or unfinished run, and return its path.

    Raises:
        ConfigError: there is no run in `folder`.
        FedLensError: one of the run's files is damaged.
        OSError: the page cannot be written.
    """
    run = load_run(folder)
    write_atomic(run.folder.report, render(run))
    return run.folder.report


def render(run: LoadedRun) -> str:
    """The page as text, with every section for which the run has data."""
    head = headline(run)
    first = (_missing, _limits, _learning, _clients, _both_models, _cross_site, _mistakes, nearest_texts)
    parts = (*first, _explained, _privacy, _measured, _cost, _failures, _data, _details)
    cards = _cards(head, run)
    return page(head.run, _subtitle(head, run.result), [_guide(cards), *(part(run) for part in parts)], cards)


def _guide(cards: Sequence[tuple[str, str]]) -> str:
    """Explanation of the figures on `cards`."""
    shown = [what for _, what in cards]
    rows = [(name, use) for name, use in FIGURES.items() if any(what.startswith(name) for what in shown)]
    title = "What these figures are good for"
    return f"<details class=guide><summary>{title}</summary>{table(('figure', 'use'), rows)}</details>"


def _subtitle(head: Headline, result: Mapping[str, Any]) -> str:
    words = [head.strategy, head.model, "" if head.clients is None else f"{head.clients:,} clients"]
    state = f"finished: {result['reason']}" if result else head.status
    known = [escape(word) for word in words if word]
    return " · ".join([*known, f'<span class="{head.status}">{escape(state)}</span>'])


def _cards(head: Headline, run: LoadedRun) -> list[tuple[str, str]]:
    """Figures of the models that clients use come first: their own models with a personalisation, else the shared
    one."""
    shared, personal = _shared_cards(head, run), _client_cards(head, run)
    rounds = f"{head.rounds} of {head.planned_rounds}" if head.planned_rounds else str(head.rounds)
    return [
        *(personal + shared if head.personal else shared + personal),
        (f"{head.megabytes:,.1f} MB", "communication, both directions"),
        (duration(head.seconds), "time of all rounds"),
        (rounds, "rounds done"),
    ]


def _shared_cards(head: Headline, run: LoadedRun) -> list[tuple[str, str]]:
    """The shared model on the test images; empty if parts of the model are private, because then there is no complete
    shared model."""
    if head.personal and head.accuracy is None:
        return []
    test, whose = last_with(run.metrics, "test") or {}, f" {UNUSED}" if head.personal else ""
    at = f"test accuracy{whose} at round {head.best_round}, best by validation"
    cards = [
        (percent(head.accuracy), _detailed(f"test accuracy{whose}, last round", test, run.unit)),
        (percent(head.best_accuracy), at if head.best_round is not None else f"no validation {run.unit}s"),
        (percent(head.balanced_accuracy), f"balanced accuracy{whose}: mean recall of the classes"),
    ]
    if head.auroc is not None:
        cards.append((f"{head.auroc:.3f}", "AUROC: area under the ROC curve of the two classes"))
    return cards


def _client_cards(head: Headline, run: LoadedRun) -> list[tuple[str, str]]:
    found = last_with(run.metrics, "clients") or {}
    cards = [
        (
            percent(head.client_accuracy),
            _detailed("client accuracy, mean over clients", found, run.unit, head.personal),
        ),
        (percent(head.client_accuracy_worst_tenth), f"client accuracy, {worst_clients(head.evaluated_clients)}"),
        (percent(head.client_accuracy_deviation), "standard deviation of the client accuracy"),
    ]
    if head.shared_accuracy is not None:
        cards.append((percent(head.shared_accuracy), f"client accuracy {UNUSED}"))
    return cards


def _detailed(what: str, found: Mapping[str, Any], unit: str, personal: bool = False) -> str:
    """A figure's label, with its interval, the number of images or rows, and its floors."""
    low, high = found.get("accuracy_low"), found.get("accuracy_high")
    interval = "" if low is None or high is None else f"95 %: {100 * low:.1f}–{100 * high:.1f}"
    details = (interval, measured_on(found, unit), floors(found, personal))
    return "<br>".join((what, *filter(None, details))).replace(" %", "\u00a0%")


def _limits(run: LoadedRun) -> str:
    """The two strongest findings, the same as on the console."""
    return "".join(map(warning, problems(run.findings, commands_of(run.folder, run.config))))


def _explained(run: LoadedRun) -> str:
    """What limits the run, with the curves it is seen in."""
    return explained(run.findings, commands_of(run.folder, run.config))


def _missing(run: LoadedRun) -> str:
    """The rounds that no figure includes."""
    return warning(missing_note(run.missing_rounds))


def _learning(run: LoadedRun) -> str:
    if not run.metrics:
        return '<p class="box">No round has finished yet.</p>'
    return section(
        "Learning",
        plot(
            "Accuracy",
            _models(is_personal(run.config), run.unit),
            rounds.accuracy_curves(run.metrics, is_personal(run.config)),
        ),
        plot(
            "Accuracy over virtual time",
            "The same on the clock of the simulated clients.",
            rounds.accuracy_over_time(run.metrics),
        ),
        plot("Loss", "Training: mean over the round's clients.", rounds.loss_curves(run.metrics)),
    )


def _models(personal: bool, unit: str) -> str:
    """The models to which the curves belong."""
    if personal:
        return (
            f"Each client's own model on its own {unit}s; the shared model, where there is one, on global test {unit}s."
        )
    return f"The shared model on the global test and validation {unit}s, and on the clients' own test {unit}s."


def _clients(run: LoadedRun) -> str:
    return section(
        "Clients",
        plot(
            "Client accuracy",
            f"The model that each client uses, on its own test {run.unit}s, in the last evaluation on clients.",
            clients.client_accuracies(run.metrics, is_personal(run.config), run.unit),
            wide=True,
        ),
        plot(
            "Shared against personal",
            f"Each client's own model and the shared one on its own test {run.unit}s, in the last evaluation on "
            "clients.",
            clients.shared_against_personal(run.metrics),
            wide=True,
        ),
        plot(
            "Contribution",
            "How much more accurate the round's model is with the client's update than without it, on the validation "
            f"{run.unit}s. Means over the rounds in which it was measured.",
            clients.worth(run.metrics),
            wide=True,
        ),
        plot(
            "Who holds what",
            f"Training {run.unit}s of every client, by class.",
            clients.partition({**run.partition, "class_names": run.class_names} if run.partition else {}, run.unit),
            wide=True,
        ),
        plot(
            "How unlike the others",
            "Distance of a client's labels from everybody's: 0 for equal shares of the classes, 1 for none in common.",
            clients.label_distances(run.partition),
            wide=True,
        ),
    )


def _both_models(run: LoadedRun) -> str:
    """Shared and personal accuracy of every client, by increasing gain, excluded clients last."""
    rows = clients.both_accuracies(run.metrics)
    if not rows:
        return ""
    ordered = sorted(rows, key=lambda one: (bool(clients.set_apart(one)), one["accuracy"] - one["shared_accuracy"]))
    cells = [
        (
            client["client"] + clients.set_apart(client),
            client["examples"],
            percent(client["shared_accuracy"]),
            percent(client["accuracy"]),
            f"{100 * (client['accuracy'] - client['shared_accuracy']):+.1f}",
        )
        for client in ordered
    ]
    return table(("client", f"test {run.unit}s", "shared model", "its own model", "points gained"), cells)


def _cross_site(run: LoadedRun) -> str:
    """Who resembles whom: each client's own model at each client."""
    found = run.cross_site
    if not any(found.get("accuracy", {}).values()):
        return ""
    left_out = f" Without {escape(by_reason(found['left_out']))}." if found["left_out"] else ""
    gaps = f" Gaps: {escape(by_reason(found['gaps']))}." if found["gaps"] else ""
    rows = {**found["accuracy"], **({SHARED_MODEL: found["shared"]} if found["shared"] else {})}
    which = OWN_MODELS if is_personal(run.config) else TRAINED_ONCE_MORE
    caption = f"{which} Rows are models, columns the clients whose test {run.unit}s they are tried on.{left_out}{gaps}"
    return section("From site to site", plot("Clients' models at each other", caption, crossed(rows), wide=True))


OWN_MODELS = "The model that each client uses."
TRAINED_ONCE_MORE = "The shared model after each client's own local training once more."
SHARED_MODEL = "[shared model]"
"""In brackets, which no site's name has."""


def _mistakes(run: LoadedRun) -> str:
    matrix = run.confusion.get("test")
    if not matrix:
        return ""
    names = run.class_names
    line = "row" if run.unit == "image" else "line"  # one word has one meaning
    which = f" The {classes.MOST_CLASSES} classes recognised worst." if len(names) > classes.MOST_CLASSES else ""
    return section(
        "Mistakes",
        plot(
            "Confusion matrix",
            f"Test {run.unit}s: {line}s are the truth, colours the shares of a {line}.{which}",
            classes.confusion(matrix, names, run.unit),
        ),
        plot(
            "Recall by class",
            f"Share of a class' test {run.unit}s that were found, worst first.{which}",
            classes.recalls(matrix, names, run.unit),
        ),
    ) + galleries(run)


MEASURED = {
    "modality": "Accuracy on complete test rows: as they are, by the image alone, by the text alone; and the mean of "
    "clients' accuracy on their own rows, by what they have.",
    "zero_shot": "Accuracy on images of classes that nobody trained on, by their names: among these, and among all.",
    "retrieval": "Share of test rows whose own text is among the first 1, 5 or 10 for an image, and the reverse.",
    "drift": "How far training led the round's clients from the model that they got (L2 norm).",
    "diversity": "Of the updates: 1/n when n clients send the same, 1 at right angles, more when they cancel out.",
    "cosine": "How far the updates agree: 1 in one direction, 0 at right angles, below 0 against each other.",
    "labels": "Distance of the labels of the round's clients from everybody's: 0 alike, 1 nothing in common.",
    "attack": "Share of malicious updates, and of patched test images that are taken for a backdoor's target.",
}
"""Explanations of the groups of measured values; see `federation.measures`."""


def _privacy(run: LoadedRun) -> str:
    if not any("privacy/epsilon" in line.get("measures", {}) for line in run.metrics):
        return ""
    told = spent_privacy(run.metrics[-1]["measures"]["privacy/epsilon"], run.config)
    caption = f"{escape(told)}. What that means: docs/privacy.md."
    return section("Privacy", plot("Spent privacy", caption, rounds.spent_privacy(run.metrics, run.config)))


def _measured(run: LoadedRun) -> str:
    """One plot for each group of measured values: attack/success and attack/malicious belong to the group attack."""
    groups = dict.fromkeys(name.partition("/")[0] for line in run.metrics for name in line.get("measures", {}))
    plots = (
        plot(
            escape(group.capitalize().replace("_", " ")),
            MEASURED.get(group, "Over the rounds."),
            rounds.measures(run.metrics, group),
        )
        for group in groups
        if group not in ("traffic", "privacy")  # shown in sections of their own
    )
    return section("Measured", *plots)


def _cost(run: LoadedRun) -> str:
    if not run.metrics:
        return ""
    return section(
        "Time, communication and steps",
        plot("Time", "Seconds of each round, by phase.", rounds.timing(run.metrics)),
        plot(
            "Communication",
            f"Megabytes sent since the start.{_at_edges(run)}{_saved(run)}",
            rounds.communication(run.metrics),
        ),
        plot("Update norm", "How far each round changed the shared model.", rounds.update_norms(run.metrics)),
        plot("Staleness", "Steps of the server since the updates' own models.", rounds.staleness(run.metrics)),
        plot("Learning rate", "Of the clients' optimizer.", rounds.learning_rates(run.metrics)),
    )


def _at_edges(run: LoadedRun) -> str:
    """What the server itself received and sent, where there are edge aggregators."""
    if (found := edge_bytes(run.metrics)) is None:
        return ""
    down, up = (nbytes / 1e6 for nbytes in found)
    return f" Edge aggregators talk to the clients; the server sent them {down:,.1f} MB and got {up:,.1f} MB from them."


def _saved(run: LoadedRun) -> str:
    """The traffic saved compared with sending whole models and updates; empty if those are sent."""
    found = saved_of_whole(run.metrics)
    if found is None:
        return ""
    sent, whole = (nbytes / 1e6 for nbytes in found)
    return (
        f" Less than the whole model travels: {sent:,.2f} MB a round instead of {whole:,.2f} MB, "
        f"{whole - sent:,.2f} MB ({percent(1 - sent / whole)}) saved."
    )


def _failures(run: LoadedRun) -> str:
    rows = [(line["round"], lost["client"], lost["reason"]) for line in run.metrics for lost in line["failures"]]
    return f"<h2>Clients that failed</h2>{table(('round', 'client', 'reason'), rows)}" if rows else ""


def _data(run: LoadedRun) -> str:
    if not run.data:
        return ""
    skipped = run.data["skipped"]
    text = f"<p>{run.data['read']:,} images read, {len(skipped):,} left out.</p>"
    notes = "".join(f"<li>{escape(note)}</li>" for note in run.data["notes"])
    files = table(("file", "why it was left out"), skipped) if skipped else ""
    return f'<h2>Data report</h2><div class="box">{text}<ul>{notes}</ul></div>{files}'


def _details(run: LoadedRun) -> str:
    config = escape(run.folder.config.read_text(encoding="utf-8"))
    versions = dict(run.versions)
    flat = {**versions.pop("packages", {}), **versions}
    rows = [(name, _words(value)) for name, value in flat.items()]
    return (
        f"<h2>To repeat this run</h2><details><summary>Configuration</summary><pre>{config}</pre></details>"
        f"<details><summary>Versions</summary>{table(('what', 'value'), rows)}</details>"
    )


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "–" if value is None else str(value)
