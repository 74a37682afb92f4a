"""FedLens, as its command line runs it: rounds are timed by the arrival of their lines in metrics.jsonl.

    fedlens_fedavg.py WORKLOAD DEVICE [OVERRIDES…]

The run never waits for a request: the harness freezes it between two bursts. So at each request the lines that are
already there, and the round that was under way, are left out. The first request of all gets the first round.
"""

from __future__ import annotations

import sys

from fedlens_run import CONFIGS, FedLensRun, Line
from pictures import made
from protocol import introduce, report
from workload import WORKLOADS, Workload

ENDLESS = 1_000_000

WITHOUT_EFFECT = "has no effect"
"""What FedLens says where clients that were to train together train one after the other."""


def steps(line: Line, workload: Workload) -> int:
    """Gradient steps of the cohort. Counts on weights that are the clients' numbers of images, as FedAvg's are."""
    return workload.epochs * sum(-(-int(answer["weight"]) // workload.batch) for answer in line["cohort"])


def overrides(workload: Workload, device: str) -> list[str]:
    """What the configuration of a workload that borrows one does not say."""
    numbers = [
        f"data.partition.clients={workload.clients}",
        f"federated.fraction_fit={workload.cohort / workload.clients}",
        f"federated.min_fit_clients={workload.cohort}",
        f"federated.batch_size={workload.batch}",
        *([f"data.rows={workload.clients * workload.images}"] if workload.source is made else []),
    ]
    return [f"runtime.device={device}", f"federated.num_rounds={ENDLESS}", *(numbers if workload.config else [])]


def main() -> None:
    name, device, *more = sys.argv[1:]
    workload = WORKLOADS[name]
    config = CONFIGS / f"speed-{workload.config or name}.yaml"
    with FedLensRun(config, *overrides(workload, device), *more) as run:
        introduce("torch", "fedlens")
        rounds, before = run.rounds(), 0.0
        for burst, request in enumerate(sys.stdin):
            if burst:
                run.forget()
                before, _ = next(rounds)
            for _ in range(int(request.removeprefix("go "))):
                arrived, line = next(rounds)
                report(line["round"], arrived - before, line["train_loss"], steps(line, workload))
                before = arrived
            if WITHOUT_EFFECT in run.output():
                raise SystemExit(f"a setting of this contender does nothing:\n{run.output()}")


if __name__ == "__main__":
    main()
