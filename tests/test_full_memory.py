"""A memory that is full is one line with the way out; evaluations and features take no more of it than training."""

import errno
from pathlib import Path

import pytest
import torch
from tests.runs import Clothes, run, separable

from fedlens.core.machine import memory_kills
from fedlens.errors import OutOfMemory
from fedlens.measuring import recovery
from fedlens.measuring.fitting import Fitting
from fedlens.training import features
from fedlens.training.device import enough_memory

GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB.")
LATER = RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")
MACHINE = RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory")
CLAUSE = f"{MACHINE}: you tried to allocate 411041792 bytes. Error code 12 (Cannot allocate memory)"


class Greedy(Clothes):
    """Wants more than there is, in training or in an evaluation; `seen`: the largest batch of an evaluation."""

    def __init__(self, error: Exception | None = None, while_training: bool = True) -> None:
        super().__init__()
        self.error, self.while_training, self.seen = error, while_training, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.error is not None and self.training == self.while_training:
            raise self.error
        self.seen = self.seen if self.training else max(self.seen, len(images))
        return super().forward(images)


@pytest.mark.parametrize("runtime", ["local", "in_process"])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (GPU, r"^the GPU's memory is full, 2\.00 GiB more were wanted: try memory\.micro_batch"),
        (LATER, r"^the GPU's memory is full: try memory\.micro_batch"),
        (MACHINE, r"^the machine's memory is full: try memory\.micro_batch"),
    ],
)
@pytest.mark.parametrize("while_training", [True, False])
def test_a_full_memory_is_one_line(
    tmp_path: Path, monkeypatch, runtime: str, error: Exception, text: str, while_training: bool
) -> None:
    monkeypatch.setattr(recovery, "find_fit", lambda *_: Fitting(reason="no time"))
    given = {"model": Greedy(error, while_training), "data": {f"c{seed}": separable(20, seed) for seed in range(3)}}
    with pytest.raises(OutOfMemory, match=text + r"[^\n]* \(what fits was not measured: no time\)$"):
        run(tmp_path, f"runtime.name={runtime}", "federated.fraction_fit=1", **given, test=separable(20, 9))


@pytest.mark.parametrize(
    ("error", "fact"),
    [
        (RuntimeError(CLAUSE), "the machine's memory is full, 411 MB more were wanted"),
        (RuntimeError("std::bad_alloc"), "the machine's memory is full"),
        (MemoryError("Unable to allocate 3.00 GiB"), "the machine's memory is full"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "the machine's memory is full"),
    ],
)
def test_every_allocator_s_error_is_one(error: Exception, fact: str) -> None:
    with pytest.raises(OutOfMemory) as full, enough_memory():
        raise error
    assert full.value.fact == fact


def test_other_errors_of_the_system_stay_what_they_are() -> None:
    with pytest.raises(FileNotFoundError), enough_memory():
        Path("nowhere").read_bytes()


def test_the_kernel_s_kills_are_counted_where_it_tells(tmp_path: Path) -> None:
    assert memory_kills(tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/other\n0::/jobs/one\n")
    assert memory_kills(tmp_path) is None
    (tmp_path / "sys/fs/cgroup/jobs/one").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/jobs/one/memory.events").write_text("low 0\noom 7\noom_kill 3\noom_group_kill 0\n")
    assert memory_kills(tmp_path) == 3


def test_what_is_no_lack_of_memory_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        run(
            tmp_path,
            "runtime.name=in_process",
            model=Greedy(RuntimeError("a bug")),
            data={"a": separable(20), "b": separable(20)},
        )


@pytest.mark.parametrize(("wanted", "most"), [("null", 64), ("9", 9)])
def test_features_take_no_more_at_once_than_training(tmp_path: Path, monkeypatch, wanted: str, most: int) -> None:
    seen = []
    forward = features._forward
    monkeypatch.setattr(features, "_forward", lambda model, images: seen.append(len(images)) or forward(model, images))
    given = ("model.freeze=backbone", f"data.cache_dir={tmp_path / 'cache'}", f"memory.micro_batch={wanted}")
    run(tmp_path, *given, "federated.num_rounds=1")
    assert max(seen) == most


def test_an_evaluation_takes_no_more_at_once_than_training(tmp_path: Path) -> None:
    for wanted, seen in (("null", 60), ("7", 7)):
        model = Greedy()
        run(tmp_path, "runtime.name=in_process", f"memory.micro_batch={wanted}", model=model,
            data={"a": separable(20, 1), "b": separable(20, 2)}, test=separable(60, 3))  # fmt: skip
        assert model.seen == seen
