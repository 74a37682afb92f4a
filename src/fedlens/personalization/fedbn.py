"""FedBN: Li, Jiang, Zhang, Kamp, Dou 2021, "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", https://arxiv.org/abs/2102.07623, Algorithm 1.

The parameters and running statistics of normalisation layers stay with their client, because they depend on the
appearance of its images. The paper treats BatchNorm; the parameters of GroupNorm, LayerNorm and InstanceNorm stay as
well.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedlens.personalization.base import Personalization, personalizations
from fedlens.personalization.split import trainable_names

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@personalizations.register("fedbn", summary="normalisation layers stay: for clients whose images look different")
@dataclass(frozen=True)
class FedBN(Personalization):
    """Federates all tensors except those of normalisation layers."""

    def is_private(self, name: str, module: nn.Module) -> bool:
        return isinstance(module.get_submodule(name.rpartition(".")[0]), NORMS)

    def incompatibility(self, model: nn.Module, /) -> str | None:
        names = trainable_names(model)
        kept = [name for name in names if self.is_private(name, model)]
        if kept and len(kept) < len(names):
            return None
        what = "trains nothing else" if kept else "has no normalisation layer that trains"
        return f"name = 'fedbn': this model {what}; use personalization.name=fedper, or another model"
