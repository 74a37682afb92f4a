"""Time that a run spends on other things than training."""

from __future__ import annotations

from collections.abc import Mapping

from fedlens.explain.evidence import Evidence
from fedlens.tracking.findings import Finding
from fedlens.tracking.summary import duration

MOST = 0.5
"""Share of a run's time that something beside training takes, from which it is the larger part."""

WORTH = 60.0
"""Seconds: for less than a minute nobody changes a run."""

HOW: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "evaluate": ("evaluation", {"federated.evaluate_every": "5"}),
    "broadcast": ("sending models", {"compression.name": "half", "compression.down": "true"}),
    "aggregate": ("aggregation", {"aggregation.name": "mean"}),
    "checkpoint": ("writing checkpoints", {}),
}
"""Phase → what it is called, and what makes it shorter."""


def time_elsewhere(run: Evidence) -> Finding | None:
    """Another phase than training takes most of the time."""
    seconds = {
        phase: sum(line["seconds"].get(phase) or 0.0 for line in run.metrics)
        for phase in {phase for line in run.metrics for phase in line["seconds"]}
    }
    total = sum(seconds.values())
    phase = max((one for one in seconds if one in HOW), key=lambda one: seconds[one], default=None)
    if phase is None or seconds[phase] < max(MOST * total, WORTH):
        return None
    what, change = HOW[phase]
    return Finding(
        "time spent elsewhere",
        f"most of the time goes into {what}",
        f"{duration(seconds[phase])} of {duration(total)}; training takes {duration(seconds.get('train', 0.0))}",
        seconds[phase] / total / MOST,
        kind="time",
        changes=(change,) if change else (),
        curve=run.curve(
            **{what.replace(" ", "_"): run.series(lambda line: line["seconds"].get(phase))},
            training=run.series(lambda line: line["seconds"].get("train")),
        ),
        axis="seconds",
    )


def time_on_data(run: Evidence) -> Finding | None:
    """Local training waits for its images most of the time."""
    waited = run.told("data_share")
    share, training = run.typical(waited), sum(line["seconds"].get("train") or 0.0 for line in run.metrics)
    total = sum(seconds or 0.0 for line in run.metrics for seconds in line["seconds"].values())
    if not share * training >= max(MOST * total, WORTH):
        return None
    augment = run.value("data.augment", "none")
    cheaper = {"randaugment": "crop_flip", "none": ""}.get(augment, "none")
    return Finding(
        "time spent on data",
        "most of the time goes into reading and preparing images",
        f"the median client spends {share:.0%} of its training on that, and training takes {duration(training)} of "
        f"{duration(total)}; data.augment is {augment}",
        share * training / total / MOST,
        kind="time",
        changes=({"data.augment": cheaper},) if cheaper else (),
        advice="" if cheaper else "A smaller data.image_size, or model.freeze with features kept, makes it less",
        curve=run.curve(data=waited),
        axis="share of the training time",
    )
