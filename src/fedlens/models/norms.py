"""GroupNorm in place of BatchNorm: Wu, He, "Group Normalization", ECCV 2018.

It normalises over one image instead of a batch, so clients with different classes do not disagree about running means.
Federated work therefore often prefers it (Hsieh et al., "The Non-IID Data Quagmire", ICML 2020).
"""

from __future__ import annotations

from torch import nn

from fedlens.errors import ConfigError

MOST_GROUPS = 32
FEWEST_CHANNELS = 8
"""Minimum channels per group; with one or two, a 1 × 1 feature map would be normalised to a constant."""


def use_group_norm(model: nn.Module) -> None:
    """Replace every BatchNorm2d inside `model`, in place. Scale and shift are kept, running statistics are dropped.

    Pretrained networks lose accuracy, because their weights were tuned to batch statistics: use it for training from
    scratch or for long fine-tuning.

    Raises:
        ConfigError: there is no BatchNorm2d.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if not found:
        raise ConfigError(
            "model.norm = 'group': the model has no BatchNorm to replace; leave it out",
            code="incompatible",
            key="model.norm",
        )
    for name, module in found:
        model.set_submodule(name, _group_norm(module))


def groups_for(channels: int) -> int:
    """The largest divisor of `channels`, up to 32, with at least 8 channels per group; 1 if there are fewer."""
    most = min(MOST_GROUPS, channels // FEWEST_CHANNELS)
    return next((groups for groups in range(most, 0, -1) if channels % groups == 0), 1)


def _group_norm(batch: nn.BatchNorm2d) -> nn.GroupNorm:
    group = _like(batch)
    if batch.affine:
        group.weight, group.bias = batch.weight, batch.bias
    return group


def _like(batch: nn.BatchNorm2d) -> nn.GroupNorm:
    """The GroupNorm for a BatchNorm. timm folds dropout and activation into its BatchNorm; they are kept."""
    channels = batch.num_features
    if not hasattr(batch, "act"):
        return nn.GroupNorm(groups_for(channels), channels, batch.eps, batch.affine)
    from timm.layers import GroupNormAct

    group: nn.GroupNorm = GroupNormAct(channels, groups_for(channels), batch.eps, batch.affine)
    group.drop, group.act = batch.drop, batch.act
    return group
