"""Kernels as oneDNN reports them, in a process of its own: the capacity is read once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

KERNELS = """
from fedlens.training.process import prepare_process
prepare_process()
import torch
from torch.backends import mkldnn
weight = torch.rand(8, 8, 1, 1)
def convolve():
    for width in range(1, 400):
        torch.mkldnn_convolution(torch.zeros(1, 8, 1, width), weight, None, (0, 0), (1, 1), (1, 1), 1)
convolve()
with mkldnn.verbose(mkldnn.VERBOSE_ON_CREATION):
    convolve()
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN")
@pytest.mark.parametrize(("own", "made_again"), [({}, False), ({"DNNL_PRIMITIVE_CACHE_CAPACITY": "1024"}, True)])
def test_kernels_are_made_once_unless_the_user_has_settings(own: dict[str, str], made_again: bool) -> None:
    """399 widths take about 1,600 kernels."""
    plain = {name: value for name, value in os.environ.items() if "PRIMITIVE_CACHE" not in name}
    done = subprocess.run([sys.executable, "-c", KERNELS], capture_output=True, text=True, check=True, env=plain | own)
    assert ("create:cache_miss" in done.stdout) is made_again
    assert "create:cache_hit" in done.stdout or made_again
