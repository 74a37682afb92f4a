"""Mixed precision: autocast for the forward pass, loss scaling for fp16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fedlens.training.sections import Precision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass; parameters, gradients and updates stay float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


class LossScale:
    """Dynamic loss scaling: Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740, section 3.2.

    torch.amp.GradScaler does the same for optimizer objects; here the gradient is one vector. GradScaler skips a step
    whose gradient overflowed, which matters little in a long training. A client takes only a few steps and starts anew
    in every round, so here the step is repeated at half the scale.
    """

    FIRST, LEAST = 2.0**12, 2.0**-14
    """GradScaler starts at 2¹⁶, where ResNet-50 overflows (`benchmarks/README.md`); 2⁻¹⁴ is the smallest normal number
    of fp16."""

    def __init__(self, precision: Precision) -> None:
        self._on = precision == "fp16"
        self._scale = self.FIRST if self._on else 1.0
        self._good_steps = 0

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self._scale if self._on else loss

    def unscale(self, gradient: Tensor) -> bool:
        """Undo the scaling in place. False: the gradient overflowed, and the scale has been halved."""
        if not self._on:
            return True
        gradient.div_(self._scale)
        if not gradient.isfinite().all():
            self._scale, self._good_steps = self._scale / 2, 0
            return False
        self._good_steps += 1
        if self._good_steps == 2000:
            self._scale, self._good_steps = self._scale * 2, 0
        return True

    @property
    def spent(self) -> bool:
        """Whether the scale cannot be halved further: a gradient that is not finite now is not finite at any scale."""
        return self._scale < self.LEAST
