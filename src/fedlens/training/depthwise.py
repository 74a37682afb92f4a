"""Weight gradients of depthwise convolutions with large kernels over few pixels, on the CPU.

oneDNN has a quick way for kernels of 3 × 3. For larger ones it takes the one for groups of any size, which computes
sixteen channels by sixteen where only the diagonal is wanted. Over few pixels, as late in MobileNetV3, one sum of
products for each place of the kernel is quicker (benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 5
"""Side of a kernel from which on it is quicker."""

LARGEST = 49
"""Pixels of an output up to which it is quicker."""

Pair = tuple[int, int]
"""Rows and columns."""


def large_depthwise(module: nn.Module) -> list[nn.Conv2d]:
    """The layers that `quick_gradients` may help."""
    return [part for part in module.modules() if type(part) is nn.Conv2d and _is_large_depthwise(part)]


def _is_large_depthwise(layer: nn.Conv2d) -> bool:
    return (
        "_conv_forward" not in vars(layer)  # somebody has replaced it
        and layer.groups == layer.in_channels == layer.out_channels
        and min(layer.kernel_size) >= SMALLEST
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.bias is None
    )


@contextmanager
def quick_gradients(layers: Sequence[nn.Conv2d]) -> Iterator[None]:
    """In this block `layers` have the gradients that they have ever, but for rounding."""
    for layer in layers:
        layer._conv_forward = partial(_convolved, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer._conv_forward


def _convolved(layer: nn.Conv2d, images: Tensor, weight: Tensor, _bias: Tensor | None) -> Tensor:
    stride, padding = cast(Pair, layer.stride), cast(Pair, layer.padding)
    if _pays(layer, images, stride, padding):
        return cast(Tensor, _Depthwise.apply(images, weight, stride, padding))  # type: ignore[no-untyped-call]
    return F.conv2d(images, weight, None, stride, padding, 1, layer.groups)


def _pays(layer: nn.Conv2d, images: Tensor, stride: Pair, padding: Pair) -> bool:
    sides = zip(images.shape[2:], layer.kernel_size, stride, padding, strict=True)
    rows, columns = ((side + 2 * pad - kernel) // step + 1 for side, kernel, step, pad in sides)
    plain = images.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    laid_out = images.is_contiguous(memory_format=torch.channels_last)
    return rows * columns <= LARGEST and plain and laid_out and layer.weight.requires_grad


class _Depthwise(torch.autograd.Function):
    """(B, C, H, W) and weights (C, 1, K, K') → (B, C, R, S)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        images, weight = ctx.saved_tensors
        of_images = None
        if ctx.needs_input_grad[0]:  # torch.nn.grad.conv2d_input would take the slow layout
            of_images = torch.ops.aten.convolution_backward(
                *(gradient, images, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), len(weight)),
                (True, False, False),
            )[0]
        return of_images, weight_gradient(images, gradient, weight.shape[2:], ctx.stride, ctx.padding), None, None


def weight_gradient(images: Tensor, gradient: Tensor, kernel: Sequence[int], stride: Pair, padding: Pair) -> Tensor:
    """(C, 1, K, K') of `images` (B, C, H, W) and the `gradient` of what they were convolved to, (B, C, R, S)."""
    inputs, outputs = images.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    found = images.new_zeros(*kernel, images.shape[1])
    down, across = (
        [_overlap(place, inputs.shape[side], outputs.shape[side], stride[side - 1], padding[side - 1])
         for place in range(kernel[side - 1])]
        for side in (1, 2)
    )  # fmt: skip
    for row, (above, rows) in enumerate(down):
        for column, (left, columns) in enumerate(across):
            found[row, column] = (inputs[:, above, left] * outputs[:, rows, columns]).sum((0, 1, 2))
    return found.permute(2, 0, 1).unsqueeze(1)


def _overlap(place: int, inputs: int, outputs: int, step: int, padding: int) -> tuple[slice, slice]:
    """Along one side, the inputs that lie under a place of the kernel, and the outputs that they count for; both are
    empty where it meets padding alone."""
    first = max(0, -(-(padding - place) // step))
    last = min(outputs - 1, (inputs - 1 + padding - place) // step)
    count = max(last - first + 1, 0)
    start = first * step + place - padding
    return slice(start, start + (count - 1) * step + 1 if count else start, step), slice(first, first + count)
