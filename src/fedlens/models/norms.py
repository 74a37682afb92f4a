"""GroupNorm in place of BatchNorm: Wu, He, "Group Normalization", ECCV 2018.

Statistics of one image instead of one batch: clients with different classes then no longer disagree about running
means, which is why federated work often prefers it (Hsieh et al., "The Non-IID Data Quagmire", ICML 2020).
"""

from __future__ import annotations

from torch import nn

from fedlens.errors import ConfigError

MOST_GROUPS = 32
FEWEST_CHANNELS = 8
"""Channels a group at least; with one or two, a 1 × 1 feature map would be normalised to a constant."""


def use_group_norm(model: nn.Module) -> None:
    """Swap every BatchNorm2d inside `model`, in place. Scale and shift are kept, running statistics are dropped.

    Networks that start from pretrained weights lose accuracy by it, as those were tuned to batch statistics:
    it is meant for training from the start, or for long fine-tuning.

    Raises:
        ConfigError: there is none.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if not found:
        raise ConfigError("model.norm = 'group': the model has no BatchNorm to replace; leave it out")
    for name, module in found:
        model.set_submodule(name, _group_norm(module))


def groups_for(channels: int) -> int:
    """The largest divisor of `channels`, up to 32, that leaves a group at least 8 channels; 1 for fewer."""
    most = min(MOST_GROUPS, channels // FEWEST_CHANNELS)
    return next((groups for groups in range(most, 0, -1) if channels % groups == 0), 1)


def _group_norm(batch: nn.BatchNorm2d) -> nn.GroupNorm:
    group = _like(batch)
    if batch.affine:
        group.weight, group.bias = batch.weight, batch.bias
    return group


def _like(batch: nn.BatchNorm2d) -> nn.GroupNorm:
    """timm folds dropout and activation into its BatchNorm; they move along."""
    channels = batch.num_features
    if not hasattr(batch, "act"):
        return nn.GroupNorm(groups_for(channels), channels, batch.eps, batch.affine)
    from timm.layers import GroupNormAct

    group: nn.GroupNorm = GroupNormAct(channels, groups_for(channels), batch.eps, batch.affine)
    group.drop, group.act = batch.drop, batch.act
    return group
