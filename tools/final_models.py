"""What twelve short runs compute, one for each family of algorithms: the SHA-256 of each final model.

    .venv/bin/python tools/final_models.py
    .venv/bin/python tools/final_models.py --against COMMIT
    .venv/bin/python tools/final_models.py --only fedavg scaffold

With `--against`, the code of an earlier commit does the same runs on the same machine, and every run whose model
differs is named: so one learns whether a change that should only move code around has changed what is computed. Models
of two machines, or of two versions of PyTorch, need not be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

BASE = (
    "data.source=sample",
    "model.name=lenet",
    "federated.num_rounds=2",
    "federated.fraction_fit=0.5",
    "federated.evaluate_every=0",
    "tracking.tensorboard=false",
    "tracking.report=false",
    "runtime.workers=2",
)
RUNS: Mapping[str, Sequence[str]] = {
    "fedavg": (),
    "scaffold": ("strategy.name=scaffold", "federated.num_rounds=3"),
    "fedprox": ("strategy.name=fedprox", "strategy.mu=0.1", "optimizer.momentum=0.9"),
    "qfedavg": ("strategy.name=qfedavg", "federated.local_epochs=1"),
    "fedper": ("personalization.name=fedper",),
    "ditto": ("personalization.name=ditto",),
    "fedbuff": ("schedule.name=fedbuff", "schedule.buffer_size=2", "clock.name=half_normal", "federated.num_rounds=4"),
    "krum": ("aggregation.name=krum", "attack.name=sign_flip", "attack.fraction=0.2", "federated.fraction_fit=1"),
    "frozen": ("model.freeze=backbone",),
    "lora": ("model.lora.rank=2", "model.lora.targets=[dense1]"),
    "groupnorm": ("model.name=resnet18", "model.norm=group", "federated.num_rounds=1", "federated.fraction_fit=0.2"),
    "ray": ("runtime.name=ray",),
}


def final_model(overrides: Sequence[str], folder: Path) -> str:
    """The SHA-256 of names and values of the model that a run gives."""
    import fedlens

    run = fedlens.run(None, *BASE, f"tracking.dir={folder}", *overrides, show=False)
    digest = hashlib.sha256()
    for name, value in sorted(run.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def final_models(names: Sequence[str]) -> dict[str, str]:
    """Run → hash, of the code that this process imports."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: final_model(RUNS[name], Path(folder) / name) for name in names}


def models_of(source: Path, names: Sequence[str]) -> dict[str, str]:
    """Run → hash, of the package in the folder `source`, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    code = f"import fedlens; assert fedlens.__file__.startswith({str(source)!r}), fedlens.__file__"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    command = [sys.executable, str(Path(__file__)), "--json", "--only", *names]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    hashes: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return hashes


def unpack(commit: str, folder: Path) -> Path:
    """The package as it was at `commit`, in `folder`; gives the folder to import it from."""
    archive = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder / "src"


def differing(commit: str, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Run → (hash at `commit`, hash now), of the runs where they differ."""
    with tempfile.TemporaryDirectory() as folder:
        before = models_of(unpack(commit, Path(folder)), names)
    now = models_of(ROOT / "src", names)
    return {name: (before[name], now[name]) for name in names if before[name] != now[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN", help=", ".join(RUNS))
    parser.add_argument("--against", metavar="COMMIT", help="compare with the package as it was then")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    if arguments.against is None:
        hashes = final_models(arguments.only)
        print(json.dumps(hashes) if arguments.json else "\n".join(f"{hashes[name]}  {name}" for name in hashes))
        return
    found = differing(arguments.against, arguments.only)
    for name, (before, now) in found.items():
        print(f"{name}: {before[:12]} at {arguments.against}, {now[:12]} now")
    if found:
        sys.exit(f"{len(found)} of {len(arguments.only)} models differ")
    print(f"{len(arguments.only)} models are those of {arguments.against}")


if __name__ == "__main__":
    main()
