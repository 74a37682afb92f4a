"""nearest-texts.json: some test images of a dual encoder, with the texts that it finds nearest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fedlens.build.experiment import Experiment
from fedlens.build.inputs import inputs_of
from fedlens.build.measures import complete_tests
from fedlens.core.clean import line
from fedlens.core.files import write_json
from fedlens.models.dual_encoder import DualEncoder
from fedlens.tracking.pictures import GALLERY, in_turn, thumbnail
from fedlens.training.retrieval import Encoded, encoded, nearest_texts, places_of_own

SHOWN = 3
"""Texts of an image; its own one is added where it is not among them."""

LONGEST = 160
"""Characters of a text in the file."""


def keep_nearest_texts(experiment: Experiment, path: Path) -> None:
    """Write `path`. No effect unless the model compares images with texts, its features are finite, it is one for all
    clients, and test rows have both; nor with a user's own tensors as data. Only the run's own test rows are read,
    never a client's."""
    model, data, rows = experiment.resident.module, experiment.images, complete_tests(experiment)
    if not isinstance(model, DualEncoder) or not len(rows) or data.texts is None or data.images.is_floating_point():
        return
    memory = experiment.config.memory
    read = encoded(model, inputs_of(experiment, rows), precision=memory.precision, batch_size=memory.micro_batch)
    if not all(bool(features.isfinite().all()) for features in (read.images, read.texts)):
        return  # nothing is near
    labels, texts = data.labels.numpy()[rows].tolist(), [data.texts[row] for row in rows.tolist()]
    pictures = [
        {"image": thumbnail(data.images[rows[row]].numpy()), **found}
        for row, found in examples(read, texts, labels, data.class_names)
    ]
    write_json(path, {"tested": len(rows), "texts": int(read.same.max()) + 1, "pictures": pictures})


def examples(
    read: Encoded, texts: Sequence[str], labels: Sequence[int], class_names: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Some of the rows, as `choose` takes them: each with its class and the nearest of the different texts."""
    numbers = read.same.tolist()
    rows_with: list[list[int]] = [[] for _ in range(max(numbers) + 1)]
    for row, text in enumerate(numbers):
        rows_with[text].append(row)
    different = read.texts[[rows[0] for rows in rows_with]]
    places = places_of_own(read.images, different, read.same, torch.arange(len(different), device=read.same.device))
    for row in choose(labels, (places < SHOWN).tolist()):
        nearest = []
        for near in nearest_texts(read.images[row], different, numbers[row], SHOWN):
            own, rows = near.text == numbers[row], rows_with[near.text]
            # a text may stand in rows of several classes
            label = labels[row] if labels[row] in {labels[other] for other in rows} else labels[rows[0]]
            words = {"text": line(texts[row if own else rows[0]], LONGEST), "class": class_names[label], "own": own}
            nearest.append({"place": near.place, "similarity": round(near.similarity, 4), **words})
        yield row, {"class": class_names[labels[row]], "nearest": nearest}


def choose(labels: Sequence[int], found: Sequence[bool]) -> list[int]:
    """At most `GALLERY` rows, by class: half of them found and half not, where there are as many of both; of as many
    classes as possible."""
    rows: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for row, pair in enumerate(zip(labels, found, strict=True)):
        rows[pair].append(row)
    classes = sorted(set(labels))
    hits = list(in_turn([rows[label, True] for label in classes]))[: max(GALLERY // 2, GALLERY - found.count(False))]
    seen = {labels[row] for row in hits}
    others_first = sorted(classes, key=lambda label: label in seen)
    misses = list(in_turn([rows[label, False] for label in others_first]))[: GALLERY - len(hits)]
    return sorted(hits + misses, key=lambda row: labels[row])
