"""A run that fills the memory names settings that fit, measured by real short runs; with `memory.auto` it goes on with
them. The memory here is a model's: it takes so many images at once."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.commands import command
from tests.narrow import NARROW
from tests.photos import photos
from tests.runs import Clothes, run, separable

import fedlens
from fedlens.cli.signals import Stopped
from fedlens.core.records import RoundRecord
from fedlens.errors import OutOfMemory
from fedlens.measuring import fitting
from fedlens.measuring.measurement import Measurement
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.observer import Silent
from fedlens.tracking.run_dir import RunDir, find_runs

FEW = 4
"""Images that fit at once."""

BATCHES = 4
"""Of a round in one process: two of each client."""

SETTINGS = (
    "runtime.name=in_process",
    "federated.fraction_fit=1",
    "federated.batch_size=16",
    "federated.evaluate_clients_every=0",
)


class Small(Clothes):
    """Takes `most` images at once after so many batches, counted in training and, with `everywhere`, in evaluations."""

    def __init__(self, most: int = FEW, after: int = 0, everywhere: bool = False, training: bool = True) -> None:
        torch.manual_seed(3)
        super().__init__()
        self.most, self.after, self.seen = most, after, 0
        self.counts = {True: training, False: everywhere}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += self.training
        if self.counts[self.training] and self.seen > self.after and len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
        return super().forward(images)


class Unlimited(Small):
    def __init__(self) -> None:
        super().__init__(most=1000)


def data() -> dict[str, torch.utils.data.Dataset]:
    return {f"c{seed}": separable(30, seed) for seed in range(2)}


def trained(tmp_path: Path, model: Small, *overrides: str, **given) -> fedlens.Run:
    return run(tmp_path, *SETTINGS, *overrides, model=model, data=data(), test=separable(12, 9), **given)


def resume(done: fedlens.Run, *overrides: str, model: Small | None = None, test: bool = True) -> fedlens.Run:
    images = separable(12, 9) if test else None
    return fedlens.resume(done.folder, *overrides, model=model or Unlimited(), data=data(), test=images, show=False)


def numbers(done: fedlens.Run) -> list[dict]:
    lines = read_metrics(RunDir(done.folder).metrics)
    for line in lines:
        del line["seconds"]
        for client in line["cohort"]:
            for timed in ("seconds", "data_share"):
                del client["metrics"][timed]
    return lines


def weights(done: fedlens.Run) -> bytes:
    return (done.folder / "model" / "model.safetensors").read_bytes()


def interrupted_by(error: BaseException) -> Callable[..., Measurement]:
    def measure(*_, **__) -> Measurement:
        raise error

    return measure


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Records:
    """A tracker that must not be told anything after it was closed."""

    def __init__(self) -> None:
        self.rounds: list[int] = []
        self.closed = 0

    def round(self, record: RoundRecord) -> None:
        assert not self.closed
        self.rounds.append(record.round)

    def close(self) -> None:
        self.closed += 1


def only_run(folder: Path) -> RunDir:
    (found,) = find_runs(folder)
    return found


def test_the_settings_that_fit_are_named_with_the_command_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory) as full:
        trained(tmp_path, Small())
    folder = only_run(tmp_path)
    assert re.fullmatch(
        rf"the GPU's memory is full, 2\.00 GiB more were wanted: memory\.micro_batch={FEW} fits here, measured with "
        r"\d\.\d\d GB; numbers change in their last digits\. Go on with: "
        rf"fedlens\.resume\('{folder.path}', 'memory\.micro_batch={FEW}', data=…, model=…\)",
        str(full.value),
    )
    assert str(full.value) in folder.failure.read_text(encoding="utf-8")
    assert len(numbers(resume(fedlens.load_run(folder.path), f"memory.micro_batch={FEW}", model=Small()))) == 3


def test_it_goes_on_from_the_same_round_as_a_run_that_was_resumed_with_these_settings(tmp_path: Path) -> None:
    round_one = trained(tmp_path / "resumed", Unlimited(), "federated.num_rounds=1")
    tracker = Records()
    done = trained(tmp_path / "auto", Small(after=BATCHES), "memory.auto=true", trackers=[tracker])
    assert done.config.memory.micro_batch == FEW
    resumed = resume(round_one, "federated.num_rounds=3", f"memory.micro_batch={FEW}")
    assert numbers(done) == numbers(resumed)
    assert weights(done) == weights(resumed)
    assert (tracker.rounds, tracker.closed) == ([1, 2, 3], 1)


@pytest.mark.parametrize("runtime", ["in_process", "local"])
def test_from_the_first_round_it_is_a_run_with_these_settings(tmp_path: Path, runtime: str) -> None:
    """Some clients have changed the model by then, which began with weights of its own."""
    place = f"runtime.name={runtime}"
    done = trained(tmp_path / "auto", Small(after=1), "memory.auto=true", place)
    kept = [
        f"memory.micro_batch={FEW}",
        *([f"runtime.workers={workers}"] if (workers := done.config.runtime.workers) else []),
    ]
    whole = trained(tmp_path / "whole", Unlimited(), place, *kept)
    assert numbers(done) == numbers(whole)
    assert weights(done) == weights(whole)


def test_what_was_chosen_is_told_and_kept_and_counts_when_the_run_is_resumed(tmp_path: Path) -> None:
    told = Told()
    done = fedlens.run(
        None, *SETTINGS, f"tracking.dir={tmp_path}", "tracking.tensorboard=false", "tracking.report=false",
        "federated.num_rounds=2", "memory.auto=true", model=Small(after=BATCHES), data=data(), show=told,
    )  # fmt: skip
    chosen = f"going on after round 1 with memory.micro_batch={FEW}, which fits"
    (note,) = [note for note in told.notes if note.startswith("going on after")]
    assert note.startswith(chosen) and "last digits" in note and str(done.folder / "config.yaml") in note
    first = RunDir(done.folder).first_config.read_text(encoding="utf-8")
    assert "micro_batch: null" in first
    longer = resume(done, "federated.num_rounds=3", model=Small(), test=False)
    assert longer.config.memory.micro_batch == FEW
    assert len(numbers(longer)) == 3
    assert RunDir(done.folder).first_config.read_text(encoding="utf-8") == first


def test_where_only_an_evaluation_is_too_much_training_stays_as_it_is(tmp_path: Path) -> None:
    model = Small(most=16, everywhere=True, training=False)
    done = run(tmp_path, *SETTINGS, "memory.auto=true", model=model, data=data(), test=separable(40, 9))
    assert done.config.memory.micro_batch == 16  # federated.batch_size
    whole = run(tmp_path / "whole", *SETTINGS, model=Unlimited(), data=data(), test=separable(40, 9))
    assert [line["train_loss"] for line in numbers(done)] == [line["train_loss"] for line in numbers(whole)]


def test_a_second_lack_of_memory_takes_less_again(tmp_path: Path) -> None:
    """The first measurements see less than the run needs later."""

    class Shrinking(Small):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.most = 8 if self.seen < 3 * BATCHES else 2
            return super().forward(images)

    done = trained(tmp_path, Shrinking(after=BATCHES), "memory.auto=true", "federated.num_rounds=4")
    assert done.config.memory.micro_batch == 2
    assert len(numbers(done)) == 4


def test_where_nothing_fits_it_says_what_a_new_run_needs(tmp_path: Path) -> None:
    with pytest.raises(
        OutOfMemory, match=r"not even memory\.micro_batch=1 memory\.precision=\w+ fits here.*image_size"
    ):
        trained(tmp_path, Small(most=0), "memory.auto=true")


@pytest.mark.parametrize("auto", ["true", "false"])
def test_ctrl_c_skips_the_measurements(tmp_path: Path, monkeypatch, auto: str) -> None:
    monkeypatch.setattr(fitting, "measure", interrupted_by(KeyboardInterrupt()))
    with pytest.raises(OutOfMemory, match=r"try memory\.micro_batch=8.* \(what fits was not measured: skipped\)"):
        trained(tmp_path, Small(), f"memory.auto={auto}")


def test_a_signal_that_ends_the_command_ends_the_measurements_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fitting, "measure", interrupted_by(Stopped(15)))
    with pytest.raises(Stopped):
        trained(tmp_path, Small(), "memory.auto=true")


def test_time_that_is_over_is_no_answer(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fitting, "measure", lambda *_, **__: Measurement())
    with pytest.raises(
        OutOfMemory, match=r"what fits was not measured: a short run showed too little in the time there was"
    ):
        trained(tmp_path, Small(), "memory.auto=true")


def test_what_else_goes_wrong_in_a_measurement_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fitting, "measure", lambda *_, **__: Measurement(ended=True, failure="the disk is full"))
    with pytest.raises(OutOfMemory, match=r"what fits was not measured: the disk is full"):
        trained(tmp_path, Small(), "memory.auto=true")


def test_a_point_of_a_sweep_that_fails_names_the_settings_and_one_that_went_on_is_done(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for client in ("north", "south"):
        photos(Path("data", client), each=4)
    Path("narrow.py").write_text(NARROW)
    line = (
        "sweep plugins=[narrow.py] data.path=data model.name=narrow federated.num_rounds=1 runtime.name=in_process "
        "federated.batch_size=8 tracking.tensorboard=false tracking.report=false memory.auto=false,true"
    )
    result = command(line)
    assert result.exit_code == 1
    assert "auto=False  failed" in result.stdout
    assert "    the GPU's memory is full: memory.micro_batch=2 fits here" in result.stdout
    again = command(line)
    assert "done before" in again.stdout  # though its configuration is no longer that of the point
    (failed,) = [one for one in find_runs(Path("logs")) if not one.result.exists()]
    way_out = result.stdout.partition("Go on with: fedlens ")[2].splitlines()[0]
    assert shlex.split(way_out)[:2] == ["resume", str(failed.path)]
    assert command(way_out).exit_code == 0
    assert command(line).stdout.count("done before") == 2
