"""What every mode that protects does to an update of a client."""

from __future__ import annotations

from dataclasses import replace

from fedlens.core.types import Metrics, State
from fedlens.errors import ConfigError
from fedlens.privacy.base import LEAVES
from fedlens.strategies.base import ClientUpdate
from fedlens.transforms.base import Encoded, EncodingContext, UpdateTransform


class ProtectedUpdate(UpdateTransform):
    """An update of weight 1, of which only the payload and the metrics in `LEAVES` are sent."""

    def encode(self, update: ClientUpdate, ctx: EncodingContext) -> Encoded:
        """As `UpdateTransform.encode`.

        Raises:
            ConfigError: the strategy sends more than a payload, which no claim covers.
        """
        if beside := sorted({*update.extra, *update.part_weights}):
            raise ConfigError(
                f"strategy.name: this strategy sends {beside[0]!r} beside its update, which no privacy mode bounds or "
                "hides; use fedavg, fedprox or fedadam, or privacy.mode=none",
                code="contradiction",
                key="strategy.name",
            )
        return Encoded(replace(update, payload=self.protected(update.payload, ctx), weight=1.0))

    def protected(self, payload: State, ctx: EncodingContext) -> State:
        """The payload as it may leave the client; by default unchanged."""
        return payload

    @classmethod
    def encodes(cls) -> bool:
        return False  # its updates travel as others do

    def released(self, metrics: Metrics) -> Metrics:
        return {name: metric for name, metric in metrics.items() if name in LEAVES}
