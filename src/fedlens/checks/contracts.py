"""What every block of a family has to do. The tests of the package's own blocks use the same functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlens.aggregation.base import AggregatedUpdate, AggregationRule
from fedlens.core.labels import UNLABELLED
from fedlens.core.types import ClientInfo, ClientReport, ClientResult, State, Task, TaskSettings
from fedlens.data.base import Scheme, ToPartition
from fedlens.data.types import ImageTable
from fedlens.errors import FedLensError
from fedlens.flower.codec import result_from, result_record
from fedlens.flower.expectation import OWN_METRICS, expectation
from fedlens.models.base import ModelBuilder, ModelRequest, OwnObjective, Recognizer
from fedlens.models.build import build_model
from fedlens.strategies.base import RoundContext, Strategy
from fedlens.training.client import ClientTrainer
from fedlens.training.screening import shapes_of
from fedlens.training.tasks.base import ServerView

TOLERANCE = 1e-6


class Broken(FedLensError):
    """A block does not do what its family has to do; the message says what, and the way out."""


def model_shapes(builder: ModelBuilder, request: ModelRequest) -> None:
    """Features of the head's size, one logit a class, and the same weights for the same seed.

    Raises:
        Broken: one of them is not so.
    """
    model = build_model(builder, request).eval()
    side, channels, classes = request.image_size, request.image_channels, request.num_classes
    images = torch.randint(0, 256, (2, side, side, channels), dtype=torch.uint8)
    asked = f"{side} pixels, {channels} channels"
    if model.preprocessing.image_size != side:
        raise Broken(
            f"preprocessing has image_size {model.preprocessing.image_size} where {side} was asked for: give "
            "Preprocessing(request.image_size, …)"
        )
    with torch.inference_mode():
        features = model.backbone(model.prepare(images))
        if not isinstance(model, OwnObjective):
            _linear_head(model, features.shape, asked)
        logits = model(model.prepare(images))
    if logits.shape != (2, classes):
        raise Broken(f"{asked}: logits of shape {tuple(logits.shape)}, not (2, {classes}): use request.num_classes")
    again = build_model(builder, request).state_dict()
    if differing := [name for name, value in model.state_dict().items() if not torch.equal(value, again[name])]:
        raise Broken(f"{differing[0]} differs in a second model of the same seed: draw first weights with torch only")


def _linear_head(model: Recognizer, features: torch.Size, asked: str) -> None:
    """Raises Broken: it has none, or one for other features than the backbone's."""
    if not isinstance(model.head, nn.Linear):
        raise Broken(f"the head is {type(model.head).__name__}: it has to be nn.Linear, all else is the backbone")
    if features != (2, model.head.in_features):
        raise Broken(
            f"{asked}: the backbone gives {tuple(features)} for 2 images, and the head takes "
            f"(2, {model.head.in_features}): flatten, or pool to a size that does not depend on the image's"
        )


def results_as_expected(strategy: Strategy, trainer: ClientTrainer, client: ClientInfo) -> None:
    """What a client of `trainer` sends in two rounds is what a server between machines accepts: names, types, shapes.

    Raises:
        Broken: it would be refused there.
    """
    resident = trainer.model
    shared = {name: value for name, value in resident.state().items() if name in trainer.shared}
    state = strategy.init(shared)
    view = ServerView(resident, shared, trainer.algorithm, trainer.settings, len(client.counts["train"]), OWN_METRICS)
    expect, kept = expectation(view), None
    for number in (1, 2):
        context = RoundContext(number, 2, 2, 1, resident.trainable & trainer.shared)
        task = Task(client.name, number, "train", strategy.broadcast(state, context), TaskSettings(lr=0.1), kept)
        expected, answer = expect(task, client), trainer.run(task)
        if not isinstance(answer, ClientResult):
            raise Broken(f"round {number}: {answer.reason}")
        for what, sent, known in (
            ("the update", shapes_of(answer.payload), expected.payload),
            ("what goes beside it (extra)", shapes_of(answer.extra), expected.extra),
        ):
            if sent != known:
                raise Broken(
                    f"round {number}: a server expects other tensors of {what} than finish gives: their names, types "
                    "and shapes must not depend on the numbers or the round"
                )
        if (answer.extra or answer.report.weight != client.examples) and not strategy.needs_own_weights:
            raise Broken(
                "finish gives a weight of its own, or extra tensors, so aggregation.weights would change its "
                "mathematics: write needs_own_weights = True (without a type) in the class"
            )
        result_from(result_record(answer), task, expected)
        kept = number if answer.report.stored else None


def rule_combines(rule: AggregationRule, updates: Sequence[State], trainable: frozenset[str]) -> None:
    """The order of arrival does not matter, updates are not changed, and of nothing there is no total.

    Raises:
        Broken: one of them is not so.
    """
    before = [{name: value.clone() for name, value in update.items()} for update in updates]
    weights = [float(1 + index % 3) for index in range(len(updates))]
    order = [*range(1, len(updates), 2), *range(0, len(updates), 2)]
    one = _total(rule, updates, weights, trainable)
    other = _total(rule, [updates[index] for index in order], [weights[index] for index in order], trainable)
    pairs = [(update[name], kept[name]) for update, kept in zip(updates, before, strict=True) for name in kept]
    if not all(torch.equal(update, kept) for update, kept in pairs):
        raise Broken("it changes the updates that it is given: work on copies")
    if one.delta.keys() != updates[0].keys():
        raise Broken("its update has other names than the updates that it is given")
    for name, value in one.delta.items():
        if not torch.allclose(value, other.delta[name], atol=TOLERANCE):
            raise Broken(f"{name} depends on the order in which updates arrive, which differs from run to run")
    if rule.aggregator(trainable).result() is not None:
        raise Broken("result() has to be None where nothing was added")


def _total(
    rule: AggregationRule, updates: Sequence[State], weights: Sequence[float], trainable: frozenset[str]
) -> AggregatedUpdate:
    aggregator = rule.aggregator(trainable)
    for index, (update, weight) in enumerate(zip(updates, weights, strict=True)):
        report = ClientReport(f"client{index}", weight, {})
        aggregator.add(ClientResult(1, "train", report, dict(update)))
    result = aggregator.result()
    if result is None:
        raise Broken(f"result() is None after {len(updates)} updates")
    return result


def table_is_whole(table: ImageTable, again: ImageTable) -> None:
    """Every row has an image and a class with a name; a second look finds the same.

    Raises:
        Broken: one of them is not so.
    """
    count = len(table.labels)
    for what in ("images", "split", "clients", "groups"):
        rows = getattr(table, what)
        if rows is not None and len(rows) != count:
            raise Broken(f"{len(rows)} {what} and {count} labels: there has to be one for each image")
    labels = table.labels[table.labels != UNLABELLED]
    if not len(labels) or labels.min() < 0 or labels.max() >= len(table.class_names):
        raise Broken(f"labels have to be indexes into class_names, 0 to {len(table.class_names) - 1}")
    for what in ("images", "labels", "split", "clients", "groups"):
        if not _equal(getattr(table, what), getattr(again, what)):
            raise Broken(f"load gives other {what} at a second call: sort files, and draw from a generator with a seed")


def _equal(one: Any, other: Any) -> bool:
    return (one is None) == (other is None) and (one is None or bool(np.array_equal(one, other)))


def scheme_deals(scheme: Scheme, rows: ToPartition) -> Mapping[str, NDArray[np.int64]]:
    """Every row goes to one client at most, or, where clients overlap, to each client at most once, and the same seed
    deals alike; gives what it dealt.

    Raises:
        Broken: one of them is not so.
    """
    dealt, again = scheme.assign(rows), scheme.assign(rows)
    together = np.concatenate([*dealt.values()]) if dealt else np.empty(0, np.int64)
    if not len(together) or together.min() < 0 or together.max() >= len(rows.labels):
        raise Broken(f"assign has to give positions from 0 to {len(rows.labels) - 1}")
    for part in dealt.values() if scheme.overlaps else [together]:
        if len(np.unique(part)) != len(part):
            raise Broken(f"assign gives one image to {'one client twice' if scheme.overlaps else 'two clients'}")
    if dealt.keys() != again.keys() or any(not np.array_equal(dealt[name], again[name]) for name in dealt):
        raise Broken("assign deals in another way at a second call: draw from a generator with rows.seed")
    return dealt
