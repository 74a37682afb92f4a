"""The model card of an export: README.md, in the form of Hugging Face's (Mitchell et al. 2019, "Model cards for model
reporting", https://doi.org/10.1145/3287560.3287596).

It is meant to be given away: it has no path of the machine, no name of another client and, of a run with differential
privacy, no counts of images, because ε does not cover them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from fedlens.export.agreement import Agreement
from fedlens.export.base import Format
from fedlens.export.figures import accuracy_rows, data_rows, images_by_class, privacy_lines, which_model
from fedlens.export.markdown import bullets, escape, table
from fedlens.export.source import Source
from fedlens.reports.headline import Headline, headline

_MOST_CLASSES = 100


def card(source: Source, chosen: Format, told: str, agreement: Agreement) -> str:
    """The whole text. `told`: what the format says of its files."""
    figures = headline(source.run)
    sections = (
        _front_matter(chosen),
        f"# {escape(figures.strategy)}, {escape(figures.model)}: {escape(figures.run)}",
        f"An image classifier that was trained by a federation, with FedLens. {escape(which_model(source))}",
        table(("what", "value"), data_rows(source, figures)),
        f"## Accuracy\n\n{table(('figure', 'value'), accuracy_rows(source, figures))}",
        f"## Privacy\n\n{bullets(privacy_lines(source, figures))}",
        f"## Limits\n\n{bullets(_limits(source, figures))}",
        f"## Input and output\n\n{bullets(_input_lines(source, chosen))}",
        f"## Use\n\n{_use(source, chosen)}",
        f"## Comparison with the original\n\n{bullets(_agreement_lines(source, agreement))}",
        f"## Classes\n\n{_classes(source, figures)}",
        f"## Versions\n\n{table(('of', 'versions'), _versions(source, chosen, told))}",
    )
    return "\n\n".join(sections) + "\n"


def _front_matter(chosen: Format) -> str:
    return (
        f"---\nlibrary_name: {chosen.library}\npipeline_tag: image-classification\n"
        "tags:\n- image-classification\n- federated-learning\n- fedlens\n---"
    )


def _limits(source: Source, figures: Headline) -> Iterator[str]:
    count = len(source.trained.outputs)
    yield f"It answers every picture with one of its {count:,} classes, also a picture of something else."
    yield (
        "Its accuracy is that on images from where the training images came from. On images of other cameras, places, "
        "times or people it has to be measured first."
    )
    if figures.client_accuracy_worst_tenth is not None:
        yield "It is better for some clients than for others: see the worst ones under Accuracy."
    yield (
        "Its probabilities were not calibrated. It must not decide alone where people's health, safety, rights or "
        "money are at stake."
    )
    attack = source.run.config.get("attack", {}).get("name", "none")
    if attack != "none":
        yield f"Some clients of this run attacked it on purpose ({attack}): use it for research only."


def _input_lines(source: Source, chosen: Format) -> Iterator[str]:
    how = source.trained.preprocessing
    size, channels = how["size"], how["pixels"]["shape"][-1]
    yield (
        f"A picture is turned as its EXIF data say, its central square is cut out, and scaled to {size} × {size} "
        f"pixels (by area where it shrinks, else bicubic), in {how['colour']}."
    )
    yield f"images: uint8, (batch, {size}, {size}, {channels}), pixels from 0 to 255, any number of pictures at once."
    inside = "is inside the model" if chosen.whole else "is not inside the model; the code below does it"
    mean, std = (", ".join(f"{value:.4g}" for value in how[key]) for key in ("mean", "std"))
    yield f"Then each pixel is divided by 255, less the mean ({mean}), over the deviation ({std}). This {inside}."
    outputs = len(source.trained.outputs)
    yield f"logits: float32, (batch, {outputs}), in the order of the classes; softmax makes probabilities."
    yield "The same stands in preprocessing.json and class_names.json."


def _use(source: Source, chosen: Format) -> str:
    return f"In this folder, with `images` as above in a NumPy array:\n\n```python\n{chosen.usage}```"


def _agreement_lines(source: Source, agreement: Agreement) -> Iterator[str]:
    yield f"Both were run on {source.probe.what}."
    yield f"Largest difference of an output: {agreement.largest:.1e}; up to {agreement.tolerance:.1e} was allowed."
    yield f"The most probable class is the same for {agreement.same:,} of {agreement.images:,}."


def _classes(source: Source, figures: Headline) -> str:
    names = source.trained.outputs
    counts = {} if figures.private else images_by_class(source)
    head = ("output", "class", *counts)
    rows = [
        (str(index), name, *(f"{column[index]:,}" if index < len(column) else "–" for column in counts.values()))
        for index, name in enumerate(names[:_MOST_CLASSES])
    ]
    more = f"\n\nAnd {len(names) - _MOST_CLASSES:,} more, in class_names.json." if len(names) > _MOST_CLASSES else ""
    return table(head, rows) + more


def _versions(source: Source, chosen: Format, told: str) -> Iterator[tuple[str, str]]:
    packages: Any = source.run.versions.get("packages", {})
    if isinstance(packages, Mapping):
        yield "training", ", ".join(f"{name} {number}" for name, number in packages.items() if number)
    yield "export", ", ".join(f"{name} {version(name)}" for name in ("fedlens", *chosen.packages))
    yield "format", told
