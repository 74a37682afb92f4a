"""Gradients of single images, each clipped, and their sum.

The gradient of every image is computed by itself with `torch.func`: `vmap` over `grad` of the loss of one image. So no
image can reach another one's gradient, whatever layers the model has; one that mixes the images of a batch
(BatchNorm) cannot be computed at all. Opacus' hooks would need a module without activations in place and without
parameters outside of leaf modules, which LeNet, torchvision's and timm's networks are not; on LeNet they take as long
(`benchmarks/privacy.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fedlens.training.flat import FlatModel
from fedlens.training.precision import autocast
from fedlens.training.sections import Precision

MOST_BYTES = 2**28
"""Of all images' gradients at a time; a batch that needs more is taken in pieces."""

_TINY = 1e-6
"""Added to a norm before the division, as Opacus does: rounding does not make a clipped gradient longer."""


def batch_layer(model: FlatModel) -> str | None:
    """The first layer that trains and whose output for one image depends on others in the batch; None: there is
    none."""
    model.train()
    layers = model.module.named_modules()
    return next((name for name, layer in layers if isinstance(layer, _BatchNorm) and layer.training), None)


class ImageGradients:
    """Computes the clipped sums of one model. `moved`: the only parameters that are trained; None: all that are not
    frozen. The norm of an image's gradient is over these."""

    def __init__(
        self,
        model: FlatModel,
        *,
        clip: float,
        label_smoothing: float = 0.0,
        precision: Precision = "fp32",
        piece: int | None = None,
        moved: Sequence[nn.Parameter] | None = None,
    ) -> None:
        """`piece`: images at a time, at most; None: as many as memory allows."""
        self._model = model
        self._clip = clip
        self._smoothing = label_smoothing
        self._precision = precision
        self._moved = None if moved is None else {id(parameter) for parameter in moved}
        self._piece = piece
        self._each = vmap(grad(self._loss), in_dims=(None, 0, 0), randomness="different")

    def add_clipped(self, inputs: Tensor, labels: Tensor) -> None:
        """Write Σ gᵢ · min(1, clip / ‖gᵢ‖) over the images of a batch, which may be empty, to the model's `gradient`.
        A gradient that is not finite counts as 0: nobody could bound what it does to the sum."""
        model, parameters = self._model, self._parameters()
        model.gradient.zero_()
        if not len(labels) or not parameters:
            return
        size = max(1, MOST_BYTES // sum(value.nbytes for value in parameters.values()))
        size = min(size, self._piece or size)
        views = model.unflatten(model.gradient)
        for images, truth in zip(inputs.split(size), labels.split(size), strict=True):
            with autocast(self._precision, model.device):
                gradients = self._each(parameters, images, truth)
            self._add(views, gradients)

    def _add(self, views: dict[str, Tensor], gradients: dict[str, Tensor]) -> None:
        """In float32: under autocast the sum would be rounded to bf16, and one image could change it by more than
        clip."""
        rows = {name: gradient.detach().flatten(1) for name, gradient in gradients.items()}
        norms = torch.stack([row.norm(dim=1) for row in rows.values()]).norm(dim=0)
        finite = norms.isfinite()
        factors = torch.where(finite, (self._clip / (norms + _TINY)).clamp(max=1.0), 0.0)
        if not finite.all():  # 0 · NaN is NaN
            rows = {name: row.where(finite[:, None], 0.0) for name, row in rows.items()}
        for name, row in rows.items():
            views[name].add_((factors @ row).view(views[name].shape))

    def _parameters(self) -> dict[str, Tensor]:
        """The parameters that are trained now."""
        return {
            name: value.detach()
            for name, value in self._model.module.named_parameters()
            if value.requires_grad and (self._moved is None or id(value) in self._moved)
        }

    def _loss(self, parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(self._model.module, parameters, (image[None],))
        return F.cross_entropy(logits.float(), label[None], label_smoothing=self._smoothing)
