"""FedALA: Zhang, Hua, Wang, Song, Xue, Ma, Guan 2023, "FedALA: Adaptive Local Aggregation for Personalized Federated
Learning", https://arxiv.org/abs/2212.01197, Algorithm 1.

Before training and before prediction, a client mixes the received model Θ into the top layers of its last trained model
Θᵢ, element by element: Θ̂ = Θᵢ + (Θ − Θᵢ) ⊙ W (eq. 4). Lower layers and running statistics are taken from Θ.

A layer is a stage of the model (`models.stages`): a block, or a layer outside of blocks, with the normalisation after
it. On ResNet-18 the paper's p, from 1 to 6, counts the head, four groups of two blocks, and the stem; here the same
cuts are 1, 3, 5, 7, 9 and 10, because each block is a stage. The authors' code counts tensors: its 2 is the head's
weight and bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from statistics import pstdev
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fedlens.core.limits import Layers
from fedlens.core.types import Metrics, prefixed, under
from fedlens.models.stages import stage_ends, up_to
from fedlens.personalization.base import Batch, LocalTrainingContext, Personalization, personalizations
from fedlens.personalization.split import trainable_names
from fedlens.strategies.base import LocalTerms

TRAINED, WEIGHTS = "trained", "weights"
"""Stored per client: Θᵢ, its top layers after its last training, and the mixing weights W."""

LOSSES = 10
"""The number of last passes whose losses decide on convergence (as in the authors' code)."""

MOST_PASSES = 100
"""The maximum number of passes in the first training of W; the authors' code has no maximum."""


@personalizations.register("fedala", summary="each client learns how much of the shared model its top layers take in")
@dataclass(frozen=True)
class FedALA(Personalization):
    """W ← σ(W − η ∇_W L(Θ̂)) with ∇_W L = ∇_Θ̂ L ⊙ (Θ − Θᵢ) (eq. 5), σ clipping to [0, 1]. W starts as ones; the first
    time it is trained until the loss has converged, afterwards for one pass. Each pass draws a new sample of the
    images, and its loss is the mean over its batches; the authors' code uses one sample for all passes, and the last
    loss of a pass."""

    steps_only = False

    layers: Annotated[
        Layers, Field(description="p, top layers that are mixed: the head and the blocks below it; the paper: 1")
    ] = 1
    sample: Annotated[
        float, Field(gt=0, le=1, description="s, share of the images used to train W; the paper: 0.8")
    ] = 0.8
    weights_lr: Annotated[float, Field(gt=0, description="η, learning rate of W; the paper: 1")] = 1.0
    steady: Annotated[
        float,
        Field(gt=0, description="converged at this standard deviation of ten losses; the paper: 0.01, its code: 0.1"),
    ] = 0.1

    def initialize(self, local: LocalTrainingContext) -> None:
        if local.kept:
            local.kept = {**local.kept, **prefixed(WEIGHTS, self.mixed(local))}

    def train(self, local: LocalTrainingContext, terms: LocalTerms) -> Metrics:
        metrics = local.fit(local.epochs, terms)
        live = local.unflatten(local.vector)
        trained = {name: live[name].clone() for name in top_layers(local.module, live, self.layers)}
        local.kept = {**local.kept, **prefixed(TRAINED, trained)}
        return metrics

    def passes(self, epochs: int) -> int:
        return epochs + 2 * MOST_PASSES

    def predict(self, local: LocalTrainingContext) -> None:
        self.initialize(local)

    def mixed(self, local: LocalTrainingContext) -> dict[str, Tensor]:
        """Load Θ̂ into the model; returns W, for the top layers."""
        names = top_layers(local.module, local.unflatten(local.vector), self.layers)
        top, received, seen = local.mask(frozenset(names)), local.vector.clone(), local.statistics()
        trained, known = local.flatten(under(TRAINED, local.kept)), under(WEIGHTS, local.kept)
        aggregation = LocalAggregation(local, received, received.lerp(trained, top), top, self.weights_lr)
        aggregation.weights = local.flatten(known) if known else top.clone()
        self._learn(local, aggregation, first=not known)
        local.load(seen)
        local.vector.copy_(aggregation.model())
        return {name: value for name, value in local.unflatten(aggregation.weights).items() if name in names}

    def _learn(self, local: LocalTrainingContext, aggregation: LocalAggregation, first: bool) -> None:
        """Train W for one pass; when `first`, until convergence."""
        if not local.examples:
            return
        losses: list[float] = []
        for _ in range(MOST_PASSES if first else 1):
            losses.append(aggregation.learn(self._some(local)))
            if not isfinite(losses[-1]):  # diverged, or there are no labels
                return
            if len(losses) > LOSSES and pstdev(losses[-LOSSES:]) < self.steady:
                return

    def _some(self, local: LocalTrainingContext) -> Iterator[Batch]:
        """Batches until they cover the share `sample` of the images."""
        seen = 0
        for batch in local.batches(1):
            yield batch
            seen += len(batch[1])
            if seen >= self.sample * local.examples:
                return

    def incompatibility(self, model: nn.Module, /) -> str | None:
        held = layers_of(model, trainable_names(model))
        if self.layers <= len(held):
            return None
        key = f"layers = {self.layers}"
        return f"{key}: this model has {len(held)} layers that train; use personalization.layers={len(held)} or fewer"


class LocalAggregation:
    """Θ̂ = Θᵢ + (Θ − Θᵢ) ⊙ W over whole vectors (P,). Below the top layers W is 0 and Θᵢ is set to Θ."""

    weights: Tensor

    def __init__(self, local: LocalTrainingContext, received: Tensor, trained: Tensor, top: Tensor, lr: float) -> None:
        self._local = local
        self._trained = trained
        self._change = received - trained
        self._top = top
        self._lr = lr

    def model(self) -> Tensor:
        """Θ̂."""
        return torch.addcmul(self._trained, self._change, self.weights)

    def learn(self, batches: Iterator[Batch]) -> float:
        """Train W for one pass over `batches`; returns the mean loss."""
        gradients = self._local.gradients(step_scale=self._top)
        for batch in batches:
            self._local.vector.copy_(self.model())
            self.weights.addcmul_(gradients(batch), self._change, value=-self._lr).clamp_(0, 1)
        return gradients.metrics()["loss"].value


def layers_of(model: nn.Module, names: Iterable[str]) -> list[list[str]]:
    """`names`, the trainable parameters of `model`, grouped by stage in the model's order. Parameters frozen in a round
    (`transfer.probe_rounds`) are included: a client stores the same layers in all rounds."""
    left = list(names)
    found = []
    for end in stage_ends(model):
        below = up_to(model, end)[1]
        found.append([name for name in left if name in below])
        left = [name for name in left if name not in below]
    return [layer for layer in (*found, left) if layer]


def top_layers(model: nn.Module, names: Iterable[str], count: int) -> list[str]:
    """The names of the last `count` layers' parameters."""
    return [name for layer in layers_of(model, names)[-count:] for name in layer]
