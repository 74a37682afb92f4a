"""When a run ends before its last round, by its validation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fedlens.core.limits import Times
from fedlens.core.section import Section

if TYPE_CHECKING:
    from fedlens.core.records import Evaluation


class StoppingSection(Section):
    """When to end before the last round. Looks at validation only, never at test images. Which model is the best does
    not depend on `min_delta`."""

    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="stop at this validation accuracy"
    )
    patience: Times | None = Field(None, description="stop after so many evaluations without a better validation loss")
    min_delta: Annotated[float, Field(ge=0)] = Field(
        0.0, description="by how much a validation loss has to be lower to count for patience"
    )


@dataclass(frozen=True)
class Progress:
    """The validation results so far. `best_…`: of the evaluation with the lowest loss, `best_round` being 0 before the
    first one. `stale` counts evaluations since `counted_loss`, the last loss that was lower than the one before it by
    more than `StoppingSection.min_delta`."""

    best_round: int = 0
    best_loss: float = math.inf
    best_accuracy: float = 0.0
    stale: int = 0
    counted_loss: float = math.inf

    def after(self, round_number: int, validation: Evaluation, rule: StoppingSection) -> Progress:
        """The progress with one more evaluation."""
        after = replace(self, stale=self.stale + 1)
        if validation.loss < self.best_loss:
            after = replace(
                after, best_round=round_number, best_loss=validation.loss, best_accuracy=validation.accuracy
            )
        if validation.loss < self.counted_loss - rule.min_delta:
            after = replace(after, stale=0, counted_loss=validation.loss)
        return after

    def verdict(self, validation: Evaluation, rule: StoppingSection) -> str | None:
        """Why the run should end now, or None."""
        if rule.target_accuracy is not None and validation.accuracy >= rule.target_accuracy:
            return f"validation accuracy {validation.accuracy:.3f} reached the target {rule.target_accuracy:g}"
        if rule.patience is not None and self.stale >= rule.patience:
            enough = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
            return (
                f"validation loss has not improved{enough} for {self.stale} evaluations (best: round "
                f"{self.best_round}, {self.best_loss:.4f})"
            )
        return None
