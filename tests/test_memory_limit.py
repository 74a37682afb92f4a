"""Commands under a real limit of their memory: what PyTorch's allocator refuses, what fits, and a kill afterwards."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.narrow import NARROW
from tests.photos import photos

from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir, find_runs

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is taken already"),
]

ROOM = 260
"""MB that a command may take beside its libraries. Training takes some 50 MB for each tensor of a whole batch."""

RETURNED = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_ARENA_MAX": "1"}
"""For glibc: it gives the memory of tensors back at once. Otherwise fragments of its heap decide what fits."""

LIMITED = """
import resource, sys
from pathlib import Path

import torchvision

import fedlens.cli.main, fedlens.measuring.recovery, fedlens.reports.html

if __name__ == "__main__":
    fedlens.measuring.recovery.BUDGET = 300  # a busy machine must not decide what is found
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = taken + int(sys.argv[1]) * 10**6
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.argv = ["fedlens", *sys.argv[2:]]
    fedlens.cli.main.main()
"""

HUNGRY = """
from dataclasses import dataclass

import torch
from torch import nn

from fedlens.models.base import ModelBuilder, ModelRequest, Preprocessing, Recognizer, models


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.widen = nn.Linear(1, 1024)

    def forward(self, x):  # (B, D) → (B, D), by way of (B, D, 1024)
        return x + torch.tanh(self.widen(x[..., None])).mean(2)


@models.register("hungry", summary="a few parameters, and large activations")
@dataclass(frozen=True)
class Hungry(ModelBuilder):
    default_image_size = 16

    def build(self, request: ModelRequest) -> Recognizer:
        size = request.image_channels * request.image_size**2
        backbone = nn.Sequential(nn.Flatten(), nn.Sequential(Wide(), Wide(), Wide(), Wide()))
        how = Preprocessing(request.image_size, request.image_channels)
        return Recognizer(backbone, nn.Linear(size, request.num_classes), how)
"""

RUN = (
    "run", "plugins=[hungry.py]", "model.name=hungry", "data.path=data", "data.partition.clients=3",
    "data.partition.scheme=iid", "federated.fraction_fit=1", "federated.local_epochs=1", "runtime.workers=2",
    "federated.num_rounds=2", "tracking.tensorboard=false", "tracking.report=false",
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos(Path("data"), each=26)
    Path("hungry.py").write_text(HUNGRY)
    Path("limited.py").write_text(LIMITED)


def started(*arguments: str, room: int = ROOM) -> subprocess.Popen[str]:
    line = [sys.executable, "limited.py", str(room), *arguments]
    return subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | RETURNED,
    )


def done(*arguments: str, room: int = ROOM, status: int = 0) -> str:
    process = started(*arguments, room=room)
    output, _ = process.communicate(timeout=800)
    assert process.returncode == status, output
    return output


def only_run(base: str = "logs") -> RunDir:
    (found,) = find_runs(Path(base))
    return found


def losses(run: RunDir) -> list[float]:
    return [line["train_loss"] for line in read_metrics(run.metrics)]


def chosen(run: RunDir) -> list[str]:
    """What a run's configuration says of memory and workers."""
    from fedlens.build.load import load_saved

    config = load_saved(run.config)
    return [
        f"memory.micro_batch={config.memory.micro_batch}",
        f"memory.gradient_checkpointing={str(config.memory.gradient_checkpointing).lower()}",
        f"memory.precision={config.memory.precision}",
        f"runtime.workers={config.runtime.workers}",
    ]


@pytest.mark.full
def test_the_command_that_is_named_works(tmp_path: Path) -> None:
    output = done(*RUN, status=1)
    found = re.search(
        r"the machine's memory is full, [\d,]+ MB more were wanted: .* fits here.*Go on with: fedlens (.*)", output
    )
    assert found, output
    words = shlex.split(found[1])
    assert words[:2] == ["resume", str(only_run().path)]
    assert any(word.startswith("memory.micro_batch=") for word in words)
    done(*words)
    assert len(losses(only_run())) == 2


@pytest.mark.full
def test_it_goes_on_by_itself_and_may_be_killed_afterwards(tmp_path: Path) -> None:
    process = started(*RUN, "memory.auto=true")
    deadline = time.monotonic() + 800
    while not any(path.read_bytes().count(b"\n") for path in Path("logs").glob("*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "memory is full" not in done("resume", str(only_run().path))
    done(*RUN, *chosen(only_run()), "tracking.dir=whole", room=100_000)
    assert losses(only_run()) == losses(only_run("whole"))
    assert len(losses(only_run())) == 2


SCRIPT = """
import fedlens
from fedlens.measuring import fitting

fitting.may_inherit = lambda: False  # as on a machine whose GPU was used
print("began")
fedlens.run(
    None, "plugins=[narrow.py]", "data.path=data", "data.partition.clients=3", "model.name=narrow",
    "runtime.name=in_process", "federated.num_rounds=1", "tracking.report=false", "tracking.tensorboard=false",
    show=False,
)
"""


@pytest.mark.slow
def test_where_a_fork_would_not_do_a_new_process_measures_and_does_not_run_the_user_s_script_again() -> None:
    Path("narrow.py").write_text(NARROW)
    Path("script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=300, check=False)
    assert "memory.micro_batch=2 fits here" in done.stderr
    assert done.stdout == "began\n"
