"""Flower's Ray simulation: its own FedAvg over its own messages.

    flower_fedavg.py WORKLOAD DEVICE STYLE [CLIENTS]

"tuned": an actor process keeps data and model and slices batches from tensors; CLIENTS train at once, by default one a
core, each with its share of the cores and of the GPU. "quick-start": Flower's default of two cores a client, and a
client as in its PyTorch quick start: each message builds the model, asks flwr-datasets for its partition and decodes
the pictures through a DataLoader. No evaluation and no telemetry in either.
A round is one `strategy.start(num_rounds=1)`, continued from the last round's arrays.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}

import flower_client
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from protocol import introduce, report, requests
from workload import WORKLOADS

workload, device, style = WORKLOADS[sys.argv[1]], sys.argv[2], sys.argv[3]
server = ServerApp()
CORES = os.cpu_count() or 1


def share(at_once: int) -> dict[str, Any]:
    """A client's cores and its part of the GPU."""
    return {"num_cpus": part(CORES, at_once), "num_gpus": part(1, at_once) if device == "cuda" else 0.0}


def part(whole: int, at_once: int) -> float:
    """Ray takes whole numbers, or ten-thousandths of one. Rounded up, they would leave too little for the last."""
    return whole // at_once or 10_000 * whole // at_once / 10_000


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run a round whenever the harness asks for one."""
    introduce("torch", "flwr", "ray")
    strategy = FedAvg(
        fraction_train=workload.cohort / workload.clients,
        fraction_evaluate=0.0,
        min_train_nodes=workload.cohort,
        min_available_nodes=workload.clients,
    )
    arrays = ArrayRecord(workload.build().state_dict())
    settings = ConfigRecord({"workload": workload.name, "device": device, "style": style})
    for number in requests():
        started = time.perf_counter()
        result = strategy.start(grid, arrays, num_rounds=1, train_config=settings)
        seconds = time.perf_counter() - started
        arrays, metrics = result.arrays, result.train_metrics_clientapp[1]
        loss, steps = metrics["loss"], metrics["steps"]
        assert not isinstance(loss, list)
        assert not isinstance(steps, list)
        report(number, seconds, loss, round(steps * workload.cohort))


if __name__ == "__main__":
    if style == "quick-start":
        from flower_pictures import prepare

        prepare(workload)
    at_once = {"tuned": CORES, "quick-start": CORES // 2 or 1}[style]
    run_simulation(
        server,
        flower_client.app,
        num_supernodes=workload.clients,
        backend_config={"client_resources": share(int(sys.argv[4]) if len(sys.argv) > 4 else at_once)},
    )
