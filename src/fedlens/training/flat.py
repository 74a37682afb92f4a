"""The resident model: a module whose trainable parameters are views of one vector.

Restoring, differencing, clipping, correcting and stepping are then a few calls on one tensor, whatever the number of
layers; for small models that is a good part of a step's time (`benchmarks/README.md`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fedlens.aggregation.norms import all_finite
from fedlens.core.types import State
from fedlens.training.device import gathered


class FlatModel:
    """Wraps `module` in place.

    vector      (P,) the trainable parameters; the module's parameters are views of it
    gradient    (P,) their gradients, with the same layout
    step_scale  (P,) factors of the learning rate; None: 1 everywhere

    Float buffers (running statistics) of layers that train are shared too. Integer counters and everything frozen are
    not.
    """

    def __init__(self, module: nn.Module, device: torch.device, *, channels_last: bool = True) -> None:
        self.module = module.to(device)
        self.device = device
        named = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
        size = sum(value.numel() for _, value in named)
        self.vector = torch.empty(size, device=device)
        self.gradient = torch.zeros(size, device=device)
        self.step_scale: Tensor | None = None
        self._frozen: tuple[nn.Module, ...] = ()
        self._parameters: dict[str, tuple[int, int, Tensor]] = {}
        offset = 0
        for name, parameter in named:
            self._adopt(name, parameter, offset, channels_last)
            offset += parameter.numel()
        mode = module.training
        module.train()  # frozen modules can be recognised: they stay in eval mode
        self._buffers = {name: value for name, value in module.named_buffers() if self._travels(name, value)}
        counters = [part.num_batches_tracked for part in module.modules() if isinstance(part, _NormBase)]
        self._counters = [(value, value.clone()) for value in counters if value is not None]
        module.train(mode)

    @property
    def trainable(self) -> frozenset[str]:
        return frozenset(self._parameters)

    @property
    def names(self) -> frozenset[str]:
        """Names of all shared tensors: trainable parameters and running statistics."""
        return frozenset(self._live())

    def freeze(self, modules: Iterable[nn.Module], names: Collection[str]) -> None:
        """Until the next call, the parameters called `names` get no gradient and `modules` stay in eval mode."""
        if (frozen := tuple(modules)) != self._frozen:
            self._frozen = frozen
            self.module.eval()  # so that `train` sets the mode of every module anew
        for name, parameter in self.module.named_parameters():
            if name in self._parameters:
                parameter.requires_grad_(name not in names)

    def train(self) -> None:
        """Set training mode, except for frozen modules. It is set before every step: where nothing has changed it
        since, going through all modules again would only take time."""
        if self.module.training and not self._frozen:
            return
        self.module.train()
        for part in self._frozen:
            part.eval()

    def state(self) -> dict[str, Tensor]:
        """A copy of all shared tensors, by name."""
        return {name: value.clone() for name, value in self._live().items()}

    def statistics(self) -> dict[str, Tensor]:
        """A copy of the running statistics, by name."""
        return {name: value.clone() for name, value in self._buffers.items()}

    def load(self, state: State) -> None:
        """Copy `state` into the model; tensors that it does not name are unchanged."""
        live = self._live()
        found = gathered({name: state[name] for name in live if name in state}, self.device)
        if found:
            torch._foreach_copy_([live[name] for name in found], list(found.values()))

    def reset_bn_counters(self) -> None:
        """Reset BatchNorm's batch counters to their initial values. Otherwise the saved model and, with a cumulative
        average (momentum=None), a client's training would depend on which clients this process trained before."""
        for counter, first in self._counters:
            counter.copy_(first)

    def delta(self, before: State) -> dict[str, Tensor]:
        """after − before, for the names in `before`."""
        live = self._live()
        known = gathered({name: value for name, value in before.items() if name in live}, self.device)
        if not known:
            return {}
        changed = torch._foreach_sub(
            [live[name] for name in known], [value.to(self.device) for value in known.values()]
        )
        return dict(zip(known, changed, strict=True))

    def on_device(self, state: State) -> State:
        """`state` on this device, tensors of the model in the model's memory order: copies of one layout are made
        together. On the CPU, `state` itself. Scalars stay in main memory, where reading them waits for nothing."""
        if self.device.type == "cpu":
            return state
        live = self._live()
        here = self.beside(gathered({name: value for name, value in state.items() if value.dim()}, self.device))
        return {
            **state,
            **{
                name: torch.empty_like(live[name]).copy_(value) if name in live else value
                for name, value in here.items()
            },
        }

    def is_finite(self) -> bool:
        return all_finite((self.vector, *self._buffers.values()))

    def flatten(self, state: State) -> Tensor:
        """Named trainable tensors → (P,), in the vector's order; 0 where a name is missing."""
        flat = torch.zeros_like(self.vector)
        for name, (start, stop, view) in self._parameters.items():
            if name in state:
                _like(flat[start:stop], view).copy_(state[name])
        return flat

    def beside(self, state: State) -> dict[str, Tensor]:
        """`state` on this device; scalars stay where they are, as torch's AdamW requires for its step count."""
        return {name: value.to(self.device) if value.dim() else value for name, value in state.items()}

    def mask(self, names: Collection[str]) -> Tensor:
        """(P,) 1 for the named parameters, else 0."""
        mask = torch.zeros_like(self.vector)
        for name, (start, stop, _) in self._parameters.items():
            if name in names:
                mask[start:stop] = 1.0
        return mask

    def within(self, mask: Tensor) -> list[nn.Parameter]:
        """The parameters that `mask` (P,) selects at least in part and that are not frozen."""
        inside = {name for name, (start, stop, _) in self._parameters.items() if bool(mask[start:stop].any())}
        return [value for name, value in self.module.named_parameters() if name in inside and value.requires_grad]

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """(P,) → named trainable tensors, as views."""
        return {name: _like(vector[start:stop], view) for name, (start, stop, view) in self._parameters.items()}

    def side_by_side(self, vectors: Tensor) -> dict[str, Tensor]:
        """(K, P), vectors of K clients → their named trainable tensors (K, …), as views."""
        rows, pace, first = len(vectors), vectors.stride(0), vectors.storage_offset()
        return {
            name: vectors.as_strided((rows, *view.shape), (pace, *view.stride()), first + start)
            for name, (start, _, view) in self._parameters.items()
        }

    def _live(self) -> dict[str, Tensor]:
        return {name: view for name, (_, _, view) in self._parameters.items()} | self._buffers

    def _adopt(self, name: str, parameter: nn.Parameter, offset: int, channels_last: bool) -> None:
        stop = offset + parameter.numel()
        like = parameter.detach()
        if channels_last and like.dim() == 4:
            like = like.contiguous(memory_format=torch.channels_last)
        view = _like(self.vector[offset:stop], like)
        view.copy_(like)
        parameter.data = view
        parameter.grad = _like(self.gradient[offset:stop], like)
        self._parameters[name] = (offset, stop, view)

    def _travels(self, name: str, value: Tensor) -> bool:
        owner = self.module.get_submodule(name.rpartition(".")[0])
        frozen = [not parameter.requires_grad for parameter in owner.parameters(recurse=False)]
        moves = owner.training and not (frozen and all(frozen))
        return isinstance(owner, _NormBase) and value.is_floating_point() and moves


def _like(flat: Tensor, like: Tensor) -> Tensor:
    """(n,) viewed in the shape and memory order of `like`, which is dense."""
    return flat.as_strided(like.shape, like.stride(), flat.storage_offset())
