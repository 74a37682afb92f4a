"""FedALA: Zhang, Hua, Wang, Song, Xue, Ma, Guan 2023, "FedALA: Adaptive Local Aggregation for Personalized Federated
Learning", https://arxiv.org/abs/2212.01197, Algorithm 1.

Before it trains, and before it uses its model, a client mixes the received model Θ into the top layers of the one that
it trained last, weight by weight: Θ̂ = Θᵢ + (Θ − Θᵢ) ⊙ W (eq. 4). Lower layers, and running statistics, are Θ's.

A layer is a stage of the model (`models.stages`): a block, or a layer outside of blocks, with the normalisation behind
it. On ResNet-18 the paper's p, from 1 to 6, counts the head, four groups of two blocks, and the stem; here they are 1,
3, 5, 7, 9 and 10, for each block is a stage. The authors' code counts tensors: its 2 is a head's weight and bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import pstdev
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fedlens.federation.types import Metrics
from fedlens.limits import Layers
from fedlens.models.stages import stage_ends, up_to
from fedlens.personalization.base import Batch, Home, Personalization, personalizations
from fedlens.personalization.split import trainable_names
from fedlens.strategies.base import LocalTerms, prefixed, under

TRAINED, WEIGHTS = "trained", "weights"
"""What a client keeps of its top layers: Θᵢ as it last trained them, and W."""

LOSSES = 10
"""Of how many passes the losses are looked at for convergence (the authors' code)."""

MOST_PASSES = 100
"""The first training of W ends here, whatever the losses do; the authors' code has no such end."""


@personalizations.register("fedala", summary="each client learns how much of the shared model its top layers take in")
@dataclass(frozen=True)
class FedALA(Personalization):
    """W ← σ(W − η ∇_W L(Θ̂)) with ∇_W L = ∇_Θ̂ L ⊙ (Θ − Θᵢ) (eq. 5), σ cutting to [0, 1]. W begins with ones; the first
    time it is trained until the loss is steady, afterwards for one pass. Each pass takes a new share of the images, and
    its loss is the mean of its batches'; the authors' code takes one share for all passes, and a pass's last loss."""

    steps_only = False

    layers: Annotated[
        Layers, Field(description="p, top layers that are mixed: the head and the blocks below it; the paper: 1")
    ] = 1
    sample: Annotated[float, Field(gt=0, le=1, description="s, share of the images that teach W; the paper: 0.8")] = 0.8
    weights_lr: Annotated[float, Field(gt=0, description="η, learning rate of W; the paper: 1")] = 1.0
    steady: Annotated[
        float,
        Field(gt=0, description="standard deviation of ten losses that is steady; the paper: 0.01, its code: 0.1"),
    ] = 0.1

    def arrive(self, home: Home) -> None:
        if home.kept:
            home.kept = {**home.kept, **prefixed(WEIGHTS, self.mixed(home))}

    def train(self, home: Home, terms: LocalTerms) -> Metrics:
        metrics = home.fit(home.epochs, terms)
        live = home.unflatten(home.vector)
        trained = {name: live[name].clone() for name in top_layers(home.module, live, self.layers)}
        home.kept = {**home.kept, **prefixed(TRAINED, trained)}
        return metrics

    def passes(self, epochs: int) -> int:
        return epochs + 2 * MOST_PASSES

    def predict(self, home: Home) -> None:
        self.arrive(home)

    def mixed(self, home: Home) -> dict[str, Tensor]:
        """Put Θ̂ in the model's place; gives W, of the top layers."""
        names = top_layers(home.module, home.unflatten(home.vector), self.layers)
        top, received, seen = home.mask(frozenset(names)), home.vector.clone(), home.statistics()
        trained, known = home.flatten(under(TRAINED, home.kept)), under(WEIGHTS, home.kept)
        aggregation = LocalAggregation(home, received, received.lerp(trained, top), top, self.weights_lr)
        aggregation.weights = home.flatten(known) if known else top.clone()
        self._learn(home, aggregation, first=not known)
        home.load(seen)
        home.vector.copy_(aggregation.model())
        return {name: value for name, value in home.unflatten(aggregation.weights).items() if name in names}

    def _learn(self, home: Home, aggregation: LocalAggregation, first: bool) -> None:
        """One pass; the `first` time as many as it takes."""
        if not home.examples:
            return
        losses: list[float] = []
        for _ in range(MOST_PASSES if first else 1):
            losses.append(aggregation.learn(self._some(home)))
            if len(losses) > LOSSES and pstdev(losses[-LOSSES:]) < self.steady:
                return

    def _some(self, home: Home) -> Iterator[Batch]:
        """Batches until they hold the share `sample` of the images."""
        seen = 0
        for batch in home.batches(1):
            yield batch
            seen += len(batch[1])
            if seen >= self.sample * home.examples:
                return

    def objection(self, model: nn.Module) -> str | None:
        held = layers_of(model, trainable_names(model))
        if self.layers <= len(held):
            return None
        key = f"personalization.layers = {self.layers}"
        return f"{key}: this model has {len(held)} layers that train; use personalization.layers={len(held)} or fewer"


class LocalAggregation:
    """Θ̂ = Θᵢ + (Θ − Θᵢ) ⊙ W over whole vectors (P,); W is 0 below the top layers, where Θᵢ stands for Θ."""

    weights: Tensor

    def __init__(self, home: Home, received: Tensor, trained: Tensor, top: Tensor, lr: float) -> None:
        self._home = home
        self._trained = trained
        self._change = received - trained
        self._top = top
        self._lr = lr

    def model(self) -> Tensor:
        """Θ̂."""
        return torch.addcmul(self._trained, self._change, self.weights)

    def learn(self, batches: Iterator[Batch]) -> float:
        """One pass over `batches`; gives the mean loss."""
        gradients = self._home.gradients(share=self._top)
        for batch in batches:
            self._home.vector.copy_(self.model())
            self.weights.addcmul_(gradients(batch), self._change, value=-self._lr).clamp_(0, 1)
        return gradients.metrics()["loss"].value


def layers_of(model: nn.Module, names: Iterable[str]) -> list[list[str]]:
    """`names`, what trains of `model`, by stage, in the model's order. What rests in a round (`transfer.probe_rounds`)
    is among them: a client keeps the same layers all run long."""
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
