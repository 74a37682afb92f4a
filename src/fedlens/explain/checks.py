"""All checks, and the findings of one run, the strongest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedlens.explain import averaging, clients, costs, generalization, privacy, steps
from fedlens.explain.evidence import Evidence
from fedlens.tracking.findings import Finding

Check = Callable[[Evidence], Finding | None]

CHECKS: Sequence[Check] = (
    steps.rate_too_high,
    steps.rate_too_low,
    steps.clipped_too_much,
    steps.server_overshoots,
    privacy.drowned,
    privacy.clip_too_low,
    privacy.clip_never_bites,
    averaging.label_skew,
    averaging.local_epochs,
    averaging.feature_skew,
    averaging.compressed_too_much,
    clients.small_cohort,
    clients.bad_labels,
    clients.hurting,
    clients.attacked,
    clients.outlying_updates,
    clients.failing,
    clients.stragglers,
    generalization.broken_statistics,
    generalization.overfitting,
    generalization.validation_too_small,
    generalization.never_predicted,
    generalization.personal_worse,
    generalization.nothing_learnt,
    steps.too_few_rounds,
    costs.time_elsewhere,
    costs.time_on_data,
)

ORDER = {"cause": 0, "symptom": 1, "time": 2}


def findings(run: Evidence) -> list[Finding]:
    """What limits the run: causes first, then symptoms, then what costs time; among each the strongest first. Empty for
    a healthy run, and for one without a round."""
    if not run.metrics:
        return []
    found = [finding for check in CHECKS if (finding := check(run)) is not None]
    return sorted(found, key=lambda one: (ORDER[one.kind], -one.strength))
