"""The algorithm of a run: strategy, personalisation, aggregation rule, attack and transforms, composed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

from fedlens.aggregation.base import AggregationRule, Aggregator
from fedlens.aggregation.edges import Edges, EdgeSums
from fedlens.aggregation.mean import MeanRule
from fedlens.attacks.plan import AttackPlan
from fedlens.core.types import part_of
from fedlens.models.base import Modality
from fedlens.personalization.base import Personalization
from fedlens.personalization.none import NoPersonalization
from fedlens.privacy.dp_sgd import DPSGD
from fedlens.strategies.base import Strategy
from fedlens.transforms.base import ReceivingContext, TransformChain, UpdateTransform
from fedlens.transforms.directions import Directions
from fedlens.transforms.limited_share import LimitedShare


@dataclass(frozen=True)
class Algorithm:
    """strategy         how clients and server step
    personalization  what stays with the clients
    rule             how updates are aggregated
    attack_plan      which clients of a simulation attack, and how
    largest_share    largest part of a step's total weight that one client may have
    directions       whether to measure how well updates agree in direction; costs one more sum of the model's size
    encodings        transforms that encode updates for transmission
    privacy          what differential privacy does to single updates
    dp_sgd           how clients train so that each of their images is hidden; None: as always
    parts            parts of the model that learn from one modality, each averaged with a weight of its own
    edges            edge aggregators between clients and server; None: there are none
    """

    strategy: Strategy
    personalization: Personalization = field(default_factory=NoPersonalization)
    rule: AggregationRule = field(default_factory=MeanRule)
    attack_plan: AttackPlan | None = None
    largest_share: float | None = None
    directions: bool = False
    encodings: tuple[UpdateTransform, ...] = ()
    privacy: UpdateTransform | None = None
    dp_sgd: DPSGD | None = None
    parts: Mapping[str, Modality] = field(default_factory=dict)
    edges: Edges | None = None

    @cached_property
    def chain(self) -> TransformChain:
        """The transforms of an update, in the order in which the client encodes. The server applies its part to results
        in reverse order: an attack changes decoded updates, before any defence sees them."""
        measured: list[UpdateTransform] = [Directions()] if self.directions else []
        bounded: list[UpdateTransform] = [] if self.largest_share is None else [LimitedShare(self.largest_share)]
        private: list[UpdateTransform] = [] if self.privacy is None else [self.privacy]
        attacked: list[UpdateTransform] = [] if self.attack_plan is None else [self.attack_plan]
        return TransformChain((*measured, *bounded, *private, *attacked, *self.encodings))

    def aggregator(self, ctx: ReceivingContext) -> Aggregator:
        """A new aggregator for one round's decoded results."""
        make = partial(self.rule.aggregator, ctx.trainable)
        return self.chain.around(make() if self.edges is None else EdgeSums(make, self.edges), ctx)

    def parts_among(self, names: Collection[str]) -> frozenset[str]:
        """Those of `parts` that tensors called `names` belong to: the others stay with the clients."""
        return frozenset(part for name in names if (part := part_of(name, self.parts)) is not None)

    @property
    def summed(self) -> bool:
        """Whether the total is the mean of the clients' updates, each with the one weight that it reported."""
        crafted = self.attack_plan is not None and self.attack_plan.attack.crafts
        weighed = self.largest_share is not None or self.strategy.weighs_parts or bool(self.parts)
        return self.rule.linear and not weighed and not crafted
