"""Layers in another form where `torch.vmap` would compute them slowly, or has no batched form of them.

Convolutions whose weights differ from client to client become one grouped convolution with a group for each client. On
the CPU that is the faster way. On a GPU cuDNN's grouped convolutions are slow (pytorch/pytorch#73764): there every
patch of the images is gathered into a column, which leaves one batched product of matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from fedlens.core.instead import Instead

Pair = int | tuple[int, int]

LARGEST = 1 << 24
"""Numbers in the columns of one client's batch: 64 MiB. Larger convolutions fill a GPU as they are."""


def batched_layers(device: torch.device) -> Instead:
    """A context in which layers have the form that suits the device."""
    pooling = {F.adaptive_avg_pool2d: adaptive_pooling}
    return Instead(pooling | {torch.conv2d: convolution} if device.type == "cuda" else pooling)


def adaptive_pooling(input: Tensor, output_size: Pair) -> Tensor:
    """As `torch.nn.functional.adaptive_avg_pool2d`; of that PyTorch has no batched form where one value is left."""
    if _pair(output_size) == (1, 1):
        return input.mean((-2, -1), keepdim=True)
    return F.adaptive_avg_pool2d(input, output_size)


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """As `torch.conv2d`: (B, C, H, W) and (O, C, h, w) → (B, O, H', W')."""
    sides = weight.shape[2:]
    if isinstance(padding, str) or groups > 1 or _pair(dilation) != (1, 1) or input.dim() != 4:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    (above, left), steps = _pair(padding), _pair(stride)
    padded = F.pad(input, (left, left, above, above)) if above or left else input
    patches = padded.unfold(2, sides[0], steps[0]).unfold(3, sides[1], steps[1])  # (B, C, H', W', h, w)
    if patches.numel() > LARGEST:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    count, height, width = len(input), patches.shape[2], patches.shape[3]
    columns = patches.permute(1, 4, 5, 0, 2, 3).reshape(weight[0].numel(), -1)
    found = weight.flatten(1) @ columns
    found = found if bias is None else found + bias[:, None]
    return found.view(-1, count, height, width).transpose(0, 1)
