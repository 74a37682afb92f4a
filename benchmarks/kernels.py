"""What it gives that workers keep oneDNN's kernels for all sizes of batches (`training/process.py`).

    .venv/bin/python benchmarks/kernels.py

Rounds of MobileNetV3-small at 96 pixels over clients of different sizes, so that each client's last batch has a size of
its own: with oneDNN's own limit of 1,024 kernels, and with FedLens'. The runs take turns, and a ratio is taken within
one turn; the first round, in which kernels are made in any case, is left out.
"""

from __future__ import annotations

import os
from statistics import median

import machine
from fedlens_run import CONFIGS, FedLensRun, spent

CONFIG = CONFIGS / "multimodal.yaml"
LIMIT = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
LIMITS = {"oneDNN's limit": "1024", "FedLens' limit": None}


def seconds_a_round(network: str, rounds: int, limit: str | None) -> float:
    """The mean, because sizes differ from round to round."""
    os.environ.pop(LIMIT, None)
    if limit is not None:
        os.environ[LIMIT] = limit
    unequal = ("data.partition.scheme=dirichlet", "data.partition.alpha=1")
    with FedLensRun(CONFIG, f"model.name={network}", f"federated.num_rounds={rounds + 1}", *unequal) as run:
        found = [spent(line) for _, line in run.rounds()]
    return sum(found[1:]) / rounds


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--network", default="mobilenetv3")
    parser.add_argument("--repetitions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=20, help="rounds a run, after the first")
    options, before = parser.parse_args(), machine.facts()
    if options.small:
        options.network, options.repetitions, options.rounds = "lenet", 1, 1
    seconds: dict[str, list[float]] = {name: [] for name in LIMITS}
    for turn in range(options.repetitions):
        for name in list(LIMITS)[:: 1 if turn % 2 else -1]:
            seconds[name].append(seconds_a_round(options.network, options.rounds, LIMITS[name]))
    theirs, ours = seconds.values()
    ratio = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    figures = {"network": options.network, "seconds_a_round": seconds, "ratio": ratio}
    for name, found in {**seconds, "ratio": ratio}.items():
        print(f"{name:16} {median(found):.3f} ({min(found):.3f} – {max(found):.3f})")
    print(machine.save("kernels", before, figures, small=options.small))


if __name__ == "__main__":
    main()
