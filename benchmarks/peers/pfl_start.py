"""Starts `pfl_fedavg.py` so that several of its processes can share one device: by itself pfl gives each of them a GPU
of its own, and NCCL refuses two processes on the same, so they talk through Gloo.

    pfl_start.py WORKLOAD DEVICE
"""

from __future__ import annotations

import os
import sys

import torch


def share(device: str) -> None:
    """To be called before pfl is imported, which makes its process group then."""
    os.environ |= {"PFL_PYTORCH_DEVICE": device, "LOCAL_RANK": "0"}
    begin = torch.distributed.init_process_group
    torch.distributed.init_process_group = lambda backend, **how: begin("gloo", **how)


if __name__ == "__main__":
    share(sys.argv[2])
    from pfl_fedavg import main

    main(*sys.argv[1:])
