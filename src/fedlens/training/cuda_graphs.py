"""Computations on a GPU, captured and replayed: the calls of PyTorch's CUDA graphs are all here.

A replay gives the GPU a whole computation with one call, where the processor otherwise has to ask for hundreds of
kernels one by one; for small networks that takes longer than the kernels themselves
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Play = Callable[[], None]
"""A computation whose inputs and outputs are tensors that keep their place."""

WARM_UPS = 3
"""Runs before a capture, as in PyTorch's documentation: libraries choose kernels and take memory in the first ones."""

TIMED = 5
"""Runs of which the time is compared."""


class CudaGraphs:
    """The graphs of one process. They share their memory: one is replayed after the other, and what comes out is copied
    before the next one.

    timed  a replay is used only where it is faster, and captured only where the GPU has room for what the process
           holds a second time; False: wherever it can be captured
    """

    def __init__(self, device: torch.device, *, timed: bool) -> None:
        self._device = device
        self._timed = timed
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, compute: Play) -> Play:
        """The replay of `compute`, which is run a few times for it.

        Raises:
            RuntimeError: it cannot be captured, or the GPU's memory is full.
        """
        if self._timed and torch.cuda.mem_get_info(self._device)[0] < torch.cuda.memory_reserved(self._device):
            raise RuntimeError("the GPU has no room for the graph's memory beside that of other steps")
        with torch.cuda.device(self._device):
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream), _repeatable_work():
                for _ in range(WARM_UPS):
                    compute()
            torch.cuda.current_stream().wait_stream(stream)
            # Batches may be read in another thread meanwhile, whose calls must not end the capture: thread_local.
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                compute()
        replay: Play = graph.replay
        return replay

    def pays(self, replay: Play, compute: Play) -> bool:
        """Whether the replay is to be used."""
        return not self._timed or self._milliseconds(replay) < self._milliseconds(compute)

    def _milliseconds(self, play: Play) -> float:
        with torch.cuda.device(self._device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(TIMED):
                play()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end))


@contextmanager
def _repeatable_work() -> Iterator[None]:
    """What a graph would not do again is an error: to wait for the GPU, as `.item()` does, and to draw at random on the
    processor. To find that while capturing would be too late: the generator stays in the state of a capture."""
    waiting, draws = torch.cuda.get_sync_debug_mode(), _drawn()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(waiting)
    if draws != _drawn():
        raise RuntimeError("it draws at random on the processor")


def _drawn() -> tuple[object, ...]:
    """The state of all generators of the processor."""
    of_numpy: Any = np.random.get_state(legacy=False)
    keys, place = of_numpy["state"]["key"].tobytes(), of_numpy["state"]["pos"]
    return random.getstate(), keys, place, torch.get_rng_state().numpy().tobytes()
