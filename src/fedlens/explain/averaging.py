"""What clients have learnt and the server's model has not: the loss that comes back when their models are averaged."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedlens.core.words import count
from fedlens.explain.clients import bad_labels
from fedlens.explain.evidence import ALIKE, LOST, SKEWED, Evidence
from fedlens.tracking.findings import Finding

AVERAGE = 1.5
"""Length of the server's step over that of the mean update, up to which the server's model is nearly the average."""

LONG = 2
"""After its own training a client's model has a loss of so many times less: it has fitted its own images."""


def label_skew(run: Evidence) -> Finding | None:
    """Clients hold different classes, and what they learn is lost in the average."""
    if not run.lost >= LOST or not run.unlike >= SKEWED:
        return None
    held = (run.counts > 0).sum(axis=1)
    return Finding(
        "label skew",
        "clients hold different classes, and averaging undoes what they learn",
        f"{_lost(run)}; a client holds {float(np.median(held)):.0f} of {count(run.counts.shape[1], 'class')} (median), "
        f"{run.unlike:.0%} of the way from equal labels to a single class",
        run.lost / LOST * min(run.unlike / SKEWED, 2.0),
        changes=_against_skew(run),
        curve=run.losses,
    )


def local_epochs(run: Evidence) -> Finding | None:
    """Clients train so long that they fit their own images, and that is lost in the average."""
    epochs = int(run.value("federated.local_epochs", 1))
    trained, received = run.kept
    if epochs < 2 or not run.lost >= LOST or not received >= LONG * trained:
        return None
    fewer, rounds = max(epochs // 4, 1), int(run.value("federated.num_rounds", 1))
    longer = rounds * epochs // fewer
    return Finding(
        "too many local epochs",
        "clients train too long between two averages",
        f"{_lost(run)}; each makes {epochs} passes over its own images a round",
        run.lost / LOST * min(epochs / 5, 2.0),
        changes=({"federated.local_epochs": str(fewer), "federated.num_rounds": str(longer)},),
        curve=run.losses,
    )


def feature_skew(run: Evidence) -> Finding | None:
    """Clients have like labels, and what they learn is lost in the average all the same: their images differ."""
    epochs = int(run.value("federated.local_epochs", 1))
    if not run.lost >= LOST / 2 or not run.unlike <= ALIKE or run.personal or epochs > 5:
        return None
    if not run.typical(run.stride) <= AVERAGE or bad_labels(run) or run.value("attack.name", "none") != "none":
        return None
    return Finding(
        "feature skew",
        "clients' images differ, and averaging undoes what they learn",
        f"{_lost(run)}, although their labels are alike ({run.unlike:.0%} of the way to one class a client)",
        run.lost / LOST * 2,
        changes=({"personalization.name": "fedrep"},),
        curve=run.losses,
    )


def compressed_too_much(run: Evidence) -> Finding | None:
    """All updates of the run together are smaller than one model, and the loss still falls."""
    name = run.value("compression.name", "none")
    sent = 2 * run.series(lambda line: line.get("bytes_up")) / run.measure("traffic/whole_model") * run.cohort
    models = float(np.nansum(sent))
    if name == "none" or not 0 < models < 1 or not run.unfinished:
        return None
    return Finding(
        "compressed too much",
        "compression leaves too little of the updates",
        f"all updates of the run together have {models:.1%} of the bytes of one model, with compression.name={name}",
        1 / models,
        changes=_less_compression(run),
        curve=run.curve(models_sent=np.nancumsum(sent)),
        axis="bytes of all updates so far, in models",
    )


def _lost(run: Evidence) -> str:
    trained, received = run.kept
    part = f"{run.lost:.0%}" if run.lost < 1 else "all, and more,"
    return (
        f"local training brings the loss to {trained:.2f}, averaging back to {received:.2f}: {part} of what clients' "
        "models know is lost"
    )


def _against_skew(run: Evidence) -> list[Mapping[str, str]]:
    """Strategies that correct drift, then models of their own for the clients."""
    tried = run.value("strategy.name")
    strategies = [name for name in ("scaffold", "fedprox") if name != tried][:1]
    changes: list[Mapping[str, str]] = [{"strategy.name": name} for name in strategies]
    return changes if run.personal else [*changes, {"personalization.name": "fedper"}]


def _less_compression(run: Evidence) -> list[Mapping[str, str]]:
    share = run.value("compression.share")
    more = [{"compression.share": f"{min(10 * float(share), 1):.1g}"}] if share is not None else []
    return [*more, {"compression.name": "half"}]
