"""The transmitted size of a whole model."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedlens.models.lora import is_adapter


def size_of(model: nn.Module) -> int:
    """Bytes of its parameters, without adapters, and of its running statistics."""
    parameters = sum(value.nbytes for name, value in model.named_parameters() if not is_adapter(name))
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    statistics = [value for norm in norms for value in norm.buffers(recurse=False) if value.is_floating_point()]
    return parameters + sum(value.nbytes for value in statistics)
