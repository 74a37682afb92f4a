"""Functions of PyTorch with others in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]


class Instead(TorchFunctionMode):
    """A context in which whoever calls a function of `replaced` gets what is there in its place."""

    def __init__(self, replaced: Mapping[Function, Function]) -> None:
        super().__init__()
        self._replaced = replaced

    def __torch_function__(
        self, func: Function, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self._replaced.get(func, func)(*args, **(kwargs or {}))
