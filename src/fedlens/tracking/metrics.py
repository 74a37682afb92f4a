"""metrics.jsonl: one line of strict JSON per round, written to disk before the next round starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlens.core.files import append_line, read_regular, to_json, write_atomic, write_json
from fedlens.errors import FedLensError
from fedlens.tracking.clients import summarize_clients
from fedlens.tracking.intervals import wilson
from fedlens.tracking.missing_rounds import missing_rounds
from fedlens.tracking.renamed import with_names_of_today
from fedlens.tracking.saved import Round, formed, parse_line

if TYPE_CHECKING:  # importing torch would delay commands that only read runs
    from fedlens.core.records import Evaluation, RoundRecord
    from fedlens.core.types import ClientReport


class MetricsFile:
    """Tracker that appends each round to `path` and writes the last confusion matrices to `confusion.json` beside it.

    A new run starts an empty file. A resumed run gives `after_round`: everything after that round's line, damaged or
    not, is removed first. `missing`: earlier rounds without a line.
    """

    def __init__(self, path: Path, after_round: int | None = None) -> None:
        self._confusion = path.with_name("confusion.json")
        kept = [] if after_round is None else read_metrics(path, after_round)
        self.missing = missing_rounds(kept, after_round or 0)
        write_atomic(path, "".join(to_json(line) + "\n" for line in kept))
        self._path = path

    def round(self, record: RoundRecord) -> None:
        """Append one line and flush it to the disk.

        Raises:
            FedLensError: the disk is full or the folder is gone.
        """
        try:
            if record.test or record.validation:
                write_json(self._confusion, confusion_of(record))
            append_line(self._path, to_json(line_of(record)))
        except OSError as error:
            raise FedLensError(
                f"{self._path}: round {record.round} cannot be written ({error.strerror}). "
                "Mend that (free some space), then go on with `fedlens resume`."
            ) from error

    def close(self) -> None:
        """Nothing to do: every line is already on the disk."""


def read_metrics(path: Path, until: int | None = None) -> list[dict[str, Any]]:
    """The lines of a metrics file, oldest first; an incomplete last line is ignored; a missing file gives an empty
    list. `until`, for a resume: only rounds up to this one; later lines are not checked, and a damaged last line is
    ignored.

    Raises:
        FedLensError: the file cannot be read, or a checked line is not a round.
    """
    lines: list[dict[str, Any]] = []
    texts = _texts(path)
    for number, text in enumerate(texts, start=1):
        try:
            line = _line(text, f"{path}, line {number}")
        except FedLensError:
            if until is not None and number == len(texts):
                break
            raise
        if until is None or line["round"] <= until:
            lines.append(line)
        if until is not None and line["round"] >= until:
            break
    return lines


def newest_first(path: Path) -> Iterator[dict[str, Any]]:
    """As `read_metrics`, backwards; a line is read as JSON when it is asked for."""
    texts = _texts(path)
    for number in range(len(texts), 0, -1):
        yield _line(texts[number - 1], f"{path}, line {number}")


def _texts(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        return read_regular(path).decode(errors="replace").split("\n")[:-1]  # the last piece lacks its newline
    except OSError as error:
        raise FedLensError(f"{path}: cannot be read ({error.strerror})") from error


def _line(text: str, where: str) -> dict[str, Any]:
    return formed(with_names_of_today(parse_line(text, where)), Round, where)  # type: ignore[no-any-return]


def line_of(record: RoundRecord) -> dict[str, Any]:
    """One round as plain JSON values: losses, accuracies in 0–1, bytes, seconds. Keys are the same in every line.

    accuracy_low, accuracy_high  95 % interval of the accuracy: see `tracking.intervals`
    chance, majority             accuracies that need no learning: see `core.floors`
    """
    return {
        "round": record.round,
        "lr": record.lr,
        "train_loss": record.train_loss,
        "test": _evaluation(record.test, record.chance),
        "validation": _evaluation(record.validation, record.chance),
        "clients": _clients(record),
        "cohort": [_report(report) for report in record.reports],
        "virtual_seconds": record.virtual_seconds,
        "staleness": _staleness(record.staleness),
        "arrivals": record.arrivals,
        "failures": [{"client": failure.client, "reason": failure.reason} for failure in record.failures],
        "update_norm": record.update_norm,
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
        "seconds": dict(record.seconds),
        "measures": dict(record.measures),
        "contributions": dict(record.contributions),
    }


def confusion_of(record: RoundRecord) -> dict[str, Any]:
    """The round's confusion matrices, rows true and columns predicted."""
    return {
        "round": record.round,
        "test": record.test.confusion.tolist() if record.test else None,
        "validation": record.validation.confusion.tolist() if record.validation else None,
    }


def _evaluation(evaluation: Evaluation | None, chance: float | None) -> dict[str, Any] | None:
    if evaluation is None or not evaluation.examples:
        return None
    low, high = wilson(evaluation.accuracy, evaluation.examples) or (None, None)
    return {
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "chance": chance,
        "majority": evaluation.majority,
        "balanced_accuracy": evaluation.balanced_accuracy,
        "recalls": evaluation.recalls.tolist(),
        "auroc": evaluation.auroc,
        "examples": evaluation.examples,
    }


def _staleness(steps: Sequence[float]) -> dict[str, float] | None:
    return {"mean": sum(steps) / len(steps), "max": max(steps)} if steps else None


def _clients(record: RoundRecord) -> dict[str, Any] | None:
    if not record.clients:
        return None
    return {
        **asdict(summarize_clients(record.clients)),
        "chance": record.chance,
        "by_client": [asdict(client) for client in record.clients],
    }


def _report(report: ClientReport) -> dict[str, Any]:
    metrics = {name: metric.value for name, metric in report.metrics.items()}
    return {"client": report.client, "weight": report.weight, "metrics": metrics}
