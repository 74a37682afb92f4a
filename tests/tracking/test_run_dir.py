import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.fake_runs import CLASSES, CLIENTS, federated_data, save_data, write_run
from tests.problems import refuses, refuses_with

from fedlens.tracking.run_dir import RunDir, clean_name, find_runs, newest


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path) -> None:
    runs = [RunDir.create(tmp_path / "logs", "a") for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    assert all(run.checkpoints.is_dir() and run.model.is_dir() for run in runs)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("fedavg-lenet", "fedavg-lenet"),
        ("../../etc/passwd", "etc-passwd"),
        ("timm:vit tiny?", "timm-vit-tiny"),
        ("实验 1", "实验-1"),
        ("strategy.name=fedprox_seed=1", "strategy.name=fedprox_seed=1"),
        ("//", "run"),
    ],
)
def test_odd_names_become_one_folder_name(name: str, clean: str, tmp_path: Path) -> None:
    assert clean_name(name) == clean
    assert RunDir.create(tmp_path, name).path.parent == tmp_path


def test_a_folder_that_is_no_run_is_named_with_the_runs_beside_it(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    assert RunDir.open(run.path) == run
    with refuses(("not_found", str(tmp_path))) as caught:
        RunDir.open(tmp_path)
    assert re.search("is no run.*Runs nearby: .*fedavg-lenet", str(caught.value))
    (tmp_path / "config.yaml").touch()  # of an experiment, not of a run
    with refuses(("not_found", str(tmp_path / "typo"))) as caught:
        RunDir.open(tmp_path / "typo")
    assert str(caught.value).endswith(f"does not exist. Runs nearby: {run.path}")
    with refuses(("not_found", str(tmp_path))):
        RunDir.open(tmp_path)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "alone" / "x").mkdir(parents=True)
    with refuses(("not_found", str(tmp_path / "alone" / "x"))) as caught:
        RunDir.open(tmp_path / "alone" / "x")
    assert "`fedlens run` makes one" in str(caught.value)


def test_a_base_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refuses_with("unwritable", "tracking.dir: no run folder can be made in"):
        RunDir.create(tmp_path / "file" / "logs", "a")


HOLD = """
import os, sys, time
from pathlib import Path
from fedlens.tracking.run_dir import RunDir
with RunDir(Path(sys.argv[1])).exclusive_lock():
    if os.fork():
        print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_trains_a_run_until_it_is_killed(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with refuses(("in_use", str(run.path))), run.exclusive_lock():
            pass
        holder.kill()  # its own child, as a worker would, lives on
        holder.wait()
        with run.exclusive_lock():
            pass
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.communicate()


def test_a_run_that_cannot_be_held_is_one_clear_error(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run.path / "lock").mkdir()
    with refuses(("unwritable", str(run.path))), run.exclusive_lock():
        pass


def test_runs_are_found_in_a_folder_and_its_sweeps(tmp_path: Path) -> None:
    first, second = write_run(tmp_path, "first"), write_run(tmp_path / "sweep-a", "second")
    assert find_runs(tmp_path) == [first, second]
    assert find_runs(first.path) == [first]


def test_versions_name_packages_machine_and_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path, "a")
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    run.save_versions("cpu")
    written = json.loads(run.versions.read_text())
    assert written["packages"]["torch"] == version("torch")
    assert written["device"] == "cpu"
    assert written["cores"] >= 1

    for command in ("init -q", "-c user.name=a -c user.email=a@b.c commit -q --allow-empty -m start"):
        subprocess.run(["git", *command.split()], check=True)
    run.save_versions("cpu")
    clean = json.loads(run.versions.read_text())["git"]
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (repository / "new.txt").write_text("")
    run.save_versions("cpu")
    assert json.loads(run.versions.read_text())["git"]["dirty"] is True


def test_no_repository_is_no_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    run = RunDir.create(tmp_path, "a")
    run.save_versions("cpu")
    assert json.loads(run.versions.read_text())["git"] is None


def test_the_partition_file_says_who_holds_what(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "a")
    save_data(run, federated_data())
    partition = json.loads(run.partition.read_text())
    assert partition["class_names"] == list(CLASSES)
    # rows 12–23 of labels 0×16, 1×16, …: train 12–19 holds four of class 0 (12–15) and four of class 1 (16–19)
    assert partition["clients"][CLIENTS[1]] == {"train": [4, 4, 0], "val": [0, 2, 0], "test": [0, 2, 0]}
    assert partition["test"] == [8, 0, 0]
    one, two = federated_data().clients[:2]
    swapped = (replace(one, train=two.train), replace(two, train=one.train))
    assert run.divides(federated_data())
    assert not run.divides(replace(federated_data(), clients=swapped + federated_data().clients[2:]))
    data = json.loads(run.data.read_text())
    report = {"read": 57, "skipped": [["bad <photo>.png", "empty file"]], "notes": ["one class is rare"]}
    assert data == report | {"source": "", "scheme": "", "unit": "image"}


def test_latest_is_the_newest_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refuses(("not_found", "latest")):
        newest(Path("latest"))
    for age, name in enumerate(("logs/b", "logs/sweep/c", "logs/a", "other/d")):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
        os.utime(tmp_path / name / "config.yaml", (1000 + age, 1000 + age))
    assert newest(Path("latest")) == Path("logs/a")
    assert newest(Path("latest/best")) == Path("logs/a/best")
    assert newest(Path("other/latest")) == Path("other/d")
    assert newest(Path("logs/sweep/latest/config.yaml")) == Path("logs/sweep/c/config.yaml")
    assert newest(Path("logs/b")) == Path("logs/b")
    assert RunDir.open(Path("latest")).path == Path("logs/a")
    Path("latest").mkdir()
    assert newest(Path("latest")) == Path("latest")  # a folder that is called so is itself
