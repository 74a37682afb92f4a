"""FedBN: Li, Jiang, Zhang, Kamp, Dou 2021, "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", https://arxiv.org/abs/2102.07623, Algorithm 1.

Normalisation layers, parameters and running statistics, stay with their client: they carry how its images look. The
paper's layers are BatchNorm; the parameters of GroupNorm, LayerNorm and InstanceNorm are kept as well.
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
    """All but the normalisation layers is federated."""

    def is_private(self, name: str, module: nn.Module) -> bool:
        return isinstance(module.get_submodule(name.rpartition(".")[0]), NORMS)

    def incompatibility(self, model: nn.Module) -> str | None:
        names = trainable_names(model)
        kept = [name for name in names if self.is_private(name, model)]
        if kept and len(kept) < len(names):
            return None
        what = "trains nothing else" if kept else "has no normalisation layer that trains"
        return f"personalization.name = 'fedbn': this model {what}; use personalization.name=fedper, or another model"
