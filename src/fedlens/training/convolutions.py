"""Convolutions whose weights differ from client to client, as products of matrices.

`torch.vmap` turns them into one grouped convolution with a group for each client. On the CPU that is the faster way; on
a GPU, cuDNN's grouped convolutions are slow (https://github.com/pytorch/pytorch/issues/73764), and gathering every
patch of the images into a column leaves one batched product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

Pair = int | tuple[int, int]

LARGEST = 1 << 24
"""Numbers in the columns of one client's batch: 64 MiB. Larger convolutions fill a GPU as they are."""


def faster_convolutions(device: torch.device) -> AbstractContextManager[object]:
    """A context in which convolutions under `torch.vmap` are computed in the way that suits the device."""
    return Columns() if device.type == "cuda" else nullcontext()


class Columns(TorchFunctionMode):
    """A context in which small convolutions are products of matrices."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            return convolution(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


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
