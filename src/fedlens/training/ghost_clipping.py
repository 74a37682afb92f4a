"""Ghost clipping: norms and clipped sums of single images' gradients of linear layers, without these gradients.

With inputs a_t of a linear layer and gradients g_t of its outputs at the positions t of one image (tokens; one position
after pooling), the gradient of its weight is Σ_t g_t a_tᵀ. So

    norm²        Σ_t Σ_t' (a_t · a_t') (g_t · g_t')   Li, Tramèr, Liang and Hashimoto 2022, section 4,
                                                     https://arxiv.org/abs/2110.05679
    clipped sum  Σ_i c_i Σ_t g_it a_itᵀ, one product  Bu, Wang, Zha and Karypis 2023, https://arxiv.org/abs/2210.00038

Where T is large, these products take longer than the gradients themselves, as Bu, Mao and Xu 2022, section 4.2,
https://arxiv.org/abs/2205.10683, count it; so each layer is decided about by itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad

from fedlens.core.types import State

PAYS = 8
"""T² (inputs + outputs), divided by inputs · outputs, above which the gradients themselves are quicker: measured on a
CPU (`benchmarks/privacy.py vit`)."""

AGREES = 1e-3
"""Largest relative difference between a layer's gradient and what its inputs and outputs say: it is rounding."""

Loss = Callable[[State], Tensor]
"""Parameters → the loss of one image."""


@dataclass(frozen=True)
class Tapped:
    """A linear layer that is called once or more in a forward pass.

    name   of the layer
    forms  shape of its output in each call, for one image
    """

    name: str
    layer: nn.Linear
    forms: tuple[torch.Size, ...]

    @property
    def weight(self) -> str:
        return f"{self.name}.weight"

    @property
    def positions(self) -> int:
        """T."""
        return sum(form[:-1].numel() for form in self.forms)

    @property
    def pays(self) -> bool:
        """Whether single gradients would take longer."""
        wide, high = self.layer.in_features, self.layer.out_features
        return self.positions**2 * (wide + high) <= PAYS * wide * high

    def shifts(self, like: Tensor) -> list[Tensor]:
        """Zeros that are added to its outputs: the gradient of a loss with respect to them is that of the outputs."""
        return [like.new_zeros(form) for form in self.forms]


Shifts = dict[str, list[Tensor]]
Taken = dict[str, list[Tensor]]
"""Name of a layer → its inputs, of every call."""


@contextmanager
def tapped(layers: Sequence[Tapped], shifts: Shifts) -> Iterator[Taken]:
    """The inputs of `layers` during forward passes inside, whose outputs are shifted."""
    taken: Taken = {one.name: [] for one in layers}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        def shifted(_layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            taken[name].append(inputs[0])
            return output + shifts[name][len(taken[name]) - 1].to(output.dtype)

        return shifted

    with ExitStack() as removed:
        for one in layers:
            removed.callback(one.layer.register_forward_hook(hook(one.name)).remove)
        yield taken


@dataclass(frozen=True)
class Layer:
    """A tapped layer of a batch. inputs: (B, T, in); outputs: gradients of them, (B, T, out); all calls together."""

    inputs: Tensor
    outputs: Tensor

    @classmethod
    def of(cls, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Layer:
        """Of one tensor for each call, (B, …, in) and (B, …, out), in float32 whatever they were computed in."""
        flat = [torch.cat([value.flatten(1, -2) for value in values], 1).detach() for values in (inputs, outputs)]
        return cls(flat[0].float(), flat[1].float())

    def norms(self) -> Tensor:
        """Norm of the weight's gradient for each image, (B,). In float64, since a sum of large terms may be small."""
        a, g = self.inputs.double(), self.outputs.double()
        return ((a @ a.mT) * (g @ g.mT)).sum((1, 2)).clamp_min(0).sqrt().float()

    def summed(self, factors: Tensor) -> Tensor:
        """Σ factor · gradient of the weight, (out, in). An image with the factor 0 counts nothing, whatever its numbers
        are."""
        counts = (factors != 0)[:, None, None]
        g = (self.outputs * factors[:, None, None]).where(counts, 0.0)
        return g.flatten(0, 1).mT @ self.inputs.where(counts, 0.0).flatten(0, 1)


def ghost_layers(module: nn.Module, trained: State, loss: Loss) -> tuple[Tapped, ...]:
    """The linear layers whose weights are among `trained` and for which ghost clipping pays. `loss`: of any one image,
    which calls `module`.

    A weight that is used otherwise than by calling its layer would have a part of its gradient missed. So each is
    compared with what differentiation gives, and is left out if it differs. That is done with random parameters: with
    the model's own, gradients may be zero (all behind a head that begins with zeros), and a comparison tells nothing.
    """
    trained = _random(trained)
    uses = Counter(id(value) for _, value in module.named_parameters(remove_duplicate=False))
    linear = {
        name: layer
        for name, layer in module.named_modules()
        if type(layer) is nn.Linear and f"{name}.weight" in trained and uses[id(layer.weight)] == 1
    }
    found = [Tapped(name, linear[name], forms) for name, forms in _forms(linear, trained, loss).items()]
    paying = [one for one in found if one.pays]
    return tuple(one for one, agrees in zip(paying, _agree(paying, trained, loss), strict=True) if agrees)


def _random(state: State) -> dict[str, Tensor]:
    """Normal numbers, always the same, with which a layer's outputs are about as large as its inputs."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(value.shape, generator=generator).div(math.sqrt(value.shape[1:].numel())).to(value)
        for name, value in state.items()
    }


def _forms(layers: Mapping[str, nn.Linear], trained: State, loss: Loss) -> dict[str, tuple[torch.Size, ...]]:
    """Shapes of the outputs of the layers that are called."""
    forms: dict[str, tuple[torch.Size, ...]] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def seen(_layer: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
            forms[name] = (*forms.get(name, ()), output.shape)

        return seen

    with ExitStack() as removed, torch.no_grad():
        for name, layer in layers.items():
            removed.callback(layer.register_forward_hook(hook(name)).remove)
        loss(trained)
    return forms


def _agree(layers: Sequence[Tapped], trained: State, loss: Loss) -> list[bool]:
    weights = {one.weight: trained[one.weight] for one in layers}
    shifts: Shifts = {one.name: one.shifts(trained[one.weight]) for one in layers}

    def value(weights: State, shifts: Shifts) -> tuple[Tensor, Taken]:
        with tapped(layers, shifts) as taken:
            return loss({**trained, **weights}), taken

    (expected, outputs), inputs = grad(value, argnums=(0, 1), has_aux=True)(weights, shifts)
    one = torch.ones(1, device=next(iter(trained.values())).device)
    agree = []
    for layer in layers:
        made = Layer.of([a[None] for a in inputs[layer.name]], [g[None] for g in outputs[layer.name]]).summed(one)
        length, difference = expected[layer.weight].norm(), (made - expected[layer.weight]).norm()
        agree.append(0 < length < math.inf and bool(difference <= AGREES * length))
    return agree
