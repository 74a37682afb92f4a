"""Gradients of single images, each clipped, and their sum.

The gradient of every image is computed by itself with `torch.func`: `vmap` over `grad` of the loss of one image. Of
wide linear layers only what it is made of is computed (`training.ghost_clipping`). So no image can reach another one's
gradient, whatever layers the model has; one that mixes the images of a batch (BatchNorm) cannot be computed at all.
Opacus' hooks would need a module without activations in place and without parameters outside of leaf modules, which
LeNet, torchvision's and timm's networks are not; on LeNet they take longer (`benchmarks/privacy.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fedlens.core.types import State
from fedlens.training.flat import FlatModel
from fedlens.training.ghost_clipping import Layer, Shifts, Taken, Tapped, ghost_layers, tapped
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
        self._each = vmap(
            grad(self._loss, argnums=(0, 1), has_aux=True), in_dims=(None, None, None, 0, 0), randomness="different"
        )
        self._layers: tuple[Tapped, ...] = ()
        self._layers_of: object = None

    def add_clipped(self, inputs: Tensor, labels: Tensor) -> None:
        """Write Σ gᵢ · min(1, clip / ‖gᵢ‖) over the images of a batch, which may be empty, to the model's `gradient`.
        A gradient that is not finite counts as 0: nobody could bound what it does to the sum."""
        model, parameters = self._model, self._parameters()
        model.gradient.zero_()
        if not len(labels) or not parameters:
            return
        self._find_layers(parameters, inputs)
        layers, ghosts = self._layers, {one.weight: parameters.pop(one.weight) for one in self._layers}
        shifts = {one.name: one.shifts(ghosts[one.weight]) for one in layers}
        size = max(1, MOST_BYTES // max(1, _bytes(parameters, layers)))
        size = min(size, self._piece or size)
        views = model.unflatten(model.gradient)
        for images, truth in zip(inputs.split(size), labels.split(size), strict=True):
            with autocast(self._precision, model.device), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="There is a performance drop")  # of attention: it is slight
                (gradients, outputs), taken = self._each(parameters, shifts, ghosts, images, truth)
            rows = {name: gradient.detach().flatten(1) for name, gradient in gradients.items()}
            self._add(views, rows, {one: Layer.of(taken[one.name], outputs[one.name]) for one in layers})

    def _add(self, views: dict[str, Tensor], rows: dict[str, Tensor], layers: Mapping[Tapped, Layer]) -> None:
        """In float32: under autocast the sum would be rounded to bf16, and one image could change it by more than
        clip."""
        norms = [*(row.norm(dim=1) for row in rows.values()), *(layer.norms() for layer in layers.values())]
        lengths = torch.stack(norms).norm(dim=0)
        finite = lengths.isfinite()
        factors = torch.where(finite, (self._clip / (lengths + _TINY)).clamp(max=1.0), 0.0)
        if not finite.all():  # 0 · NaN is NaN
            rows = {name: row.where(finite[:, None], 0.0) for name, row in rows.items()}
        for name, row in rows.items():
            views[name].add_((factors @ row).view(views[name].shape))
        for one, layer in layers.items():
            views[one.weight].add_(layer.summed(factors))

    def _find_layers(self, parameters: State, inputs: Tensor) -> None:
        """The layers of which single gradients are not computed: found once for each shape of images and set of trained
        parameters, on an image of noise."""
        key = (inputs.shape[1:], tuple(parameters))
        if self._layers_of == key:
            return
        noise = torch.randn(inputs.shape[1:], generator=torch.Generator().manual_seed(0)).to(inputs.device)
        label = torch.zeros((), dtype=torch.long, device=inputs.device)
        self._layers_of = key
        self._layers = ghost_layers(
            self._model.module, parameters, lambda trained: self._loss_of(trained, noise, label)
        )

    def _parameters(self) -> dict[str, Tensor]:
        """The parameters that are trained now."""
        return {
            name: value.detach()
            for name, value in self._model.module.named_parameters()
            if value.requires_grad and (self._moved is None or id(value) in self._moved)
        }

    def _loss(
        self, parameters: State, shifts: Shifts, fixed: State, image: Tensor, label: Tensor
    ) -> tuple[Tensor, Taken]:
        """The loss of one image, and the inputs of the layers whose outputs are shifted."""
        with tapped(self._layers, shifts) as taken:
            return self._loss_of({**parameters, **fixed}, image, label), taken

    def _loss_of(self, parameters: State, image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(self._model.module, dict(parameters), (image[None],))
        return F.cross_entropy(logits.float(), label[None], label_smoothing=self._smoothing)


def _bytes(parameters: State, layers: Sequence[Tapped]) -> int:
    """Of what is in memory of one image: gradients, and inputs and outputs of layers."""
    widths = sum(one.positions * (one.layer.in_features + one.layer.out_features) for one in layers)
    return 4 * widths + sum(value.nbytes for value in parameters.values())
