"""Learning rates of the parts of a model, by round.

Discriminative learning rates and gradual unfreezing: Howard, Ruder 2018, https://arxiv.org/abs/1801.06146, sections
3.2 (ηˡ⁻¹ = ηˡ / 2.6, so layer_decay = 1 / 2.6) and 3.3 (the last group first, then one more at a time; here one more
every `unfreeze_every` rounds). Linear probing, then fine-tuning: Kumar, Raghunathan, Jones, Ma, Liang 2022,
https://arxiv.org/abs/2202.10054, LP-FT (the head alone, then everything).

The groups are the model's stages (`models.stages`), the head being the last.
"""

from __future__ import annotations

import torch

from fedlens.models.stages import stage_ends, up_to
from fedlens.training.flat import FlatModel
from fedlens.training.sections import TransferSection


class LayerwiseLR:
    """Sets a resident model's learning rates for a round. Groups without a trainable parameter do not count."""

    def __init__(self, model: FlatModel, transfer: TransferSection) -> None:
        self._model = model
        self._transfer = transfer
        self._rates: tuple[float, ...] = ()
        self._groups: list[tuple[str, frozenset[str]]] = []
        below: frozenset[str] = frozenset()
        for end in [] if transfer.uniform else stage_ends(model.module):
            names = up_to(model.module, end)[1] & model.trainable
            if names - below:
                self._groups.append((end, names - below))
            below |= names

    def set(self, round_number: int) -> None:
        """Set the round's learning rates. Frozen groups get no gradient, keep their running statistics, and are not
        stepped."""
        rates = self._transfer.rates(len(self._groups), round_number)
        if rates == self._rates:
            return
        self._rates = rates
        frozen = [end for (end, _), rate in zip(self._groups, rates, strict=True) if not rate]
        modules, names = up_to(self._model.module, frozen[-1]) if frozen else ([], frozenset())
        self._model.freeze(modules, names)
        self._model.step_scale = None if set(rates) == {1.0} else self._vector(rates)

    def _vector(self, rates: tuple[float, ...]) -> torch.Tensor:
        """(P,) the learning-rate factor of every parameter."""
        masks = (self._model.mask(names) * rate for (_, names), rate in zip(self._groups, rates, strict=True))
        return sum(masks, torch.zeros_like(self._model.vector))
