"""Kernels as oneDNN reports them, in a process of its own: the capacity is read once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import fedlens

KERNELS = """
import os
from fedlens.training.process import keep_kernels, prepare_process
keep_kernels()
import torch
from torch.backends import mkldnn
weight = torch.rand(8, 8, 1, 1)
def convolve():
    for width in range(1, 400):
        torch.mkldnn_convolution(torch.zeros(1, 8, 1, width), weight, None, (0, 0), (1, 1), (1, 1), 1)
torch.set_num_threads(1)
torch.mkldnn_convolution(torch.zeros(1, 8, 1, 1), weight, None, (0, 0), (1, 1), (1, 1), 1)
if not os.fork():  # a worker of a process that has computed something
    prepare_process()
    convolve()
    with mkldnn.verbose(mkldnn.VERBOSE_ON_CREATION):
        convolve()
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN")
@pytest.mark.parametrize(("own", "made_again"), [({}, False), ({"DNNL_PRIMITIVE_CACHE_CAPACITY": "1024"}, True)])
def test_kernels_are_made_once_unless_the_user_has_settings(own: dict[str, str], made_again: bool) -> None:
    """399 widths take about 1,600 kernels."""
    plain = {name: value for name, value in os.environ.items() if "PRIMITIVE_CACHE" not in name}
    done = subprocess.run([sys.executable, "-c", KERNELS], capture_output=True, text=True, check=True, env=plain | own)
    assert ("create:cache_miss" in done.stdout) is made_again
    assert "create:cache_hit" in done.stdout or made_again


def test_a_run_sets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    images = TensorDataset(torch.rand(200, 1, 8, 8), torch.arange(200) % 2)
    quick = (
        "runtime.name=in_process",
        "federated.num_rounds=1",
        "data.partition.scheme=iid",
        f"tracking.dir={tmp_path}",
        "tracking.report=false",
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    fedlens.run(None, *quick, "tracking.tensorboard=false", model=model, data=images, show=False)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "8192"
