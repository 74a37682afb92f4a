"""Benchmarks and tools start: each shows its help without doing anything, and does its smallest work."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(
    path
    for path in (*BENCHMARKS.glob("*.py"), *(ROOT / "tools").glob("*.py"))
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
HERE = (
    "aggregation",
    "draw_speed",
    "fedbuff",
    "gpu",
    "reproductions",
    "robustness",
    "secure_aggregation",
    "vectorized",
)
"""Their smallest work is done in this process."""
STARTED = ("features", "flower_rounds", "privacy", "scale", "speed")
"""They start programs, which takes seconds."""
LONG = (
    "compare",
    "compressions",
    "explain",
    "kernels",
    "memory",
    "missing_modalities",
    "multimodal",
    "privacy_utility",
    "results",
    "soak",
    "solar",
    "startup",
    "strategies",
    "sweep",
)
MORE = {"flower_rounds": ("empty",), "privacy": ("dpsgd",)}
LONG_MEASURES = ("empty-database", "half", "memory", "mobilenetv3")
"""The others of `flower_rounds`; "large" takes the same way as "empty"."""
TOOLS = ("echo_sites", "build_sample", "build_tokenizer", "write_reference", "write_manifests", "final_models")
"""What other scripts start, or what makes files of the repository: other tests use them."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Where a script finds what lies beside it; its results and logs would be written in a temporary folder."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def test_every_script_is_started_by_a_test() -> None:
    assert {path.stem for path in SCRIPTS} == {*HERE, *STARTED, *LONG, *TOOLS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_help_is_shown_and_nothing_started(
    path: Path, script: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.setattr(sys, "argv", [str(path), "--help"])
    script.setattr(subprocess, "Popen", None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: {path.name}" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("words", [*((name,) for name in HERE), ("secure_aggregation", "noise")])
def test_the_smallest_work(
    words: tuple[str, ...], script: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *what = words
    script.setattr(sys, "argv", [f"{name}.py", *what, "--small"])
    runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    assert "figures of the least work are not kept" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*STARTED, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_the_smallest_work_of_a_script_that_starts_programs(name: str, tmp_path: Path) -> None:
    smallest_work(tmp_path, name, *MORE.get(name, ()))


@pytest.mark.slow
@pytest.mark.parametrize("measure", LONG_MEASURES)
def test_the_smallest_work_of_each_measure_between_machines(measure: str, tmp_path: Path) -> None:
    smallest_work(tmp_path, "flower_rounds", measure)


@pytest.mark.slow
def test_the_session_on_a_gpu_does_each_step_once(tmp_path: Path) -> None:
    def session(python: str = sys.executable) -> subprocess.CompletedProcess[str]:
        command = [str(BENCHMARKS / "gpu_session.sh"), "--small"]
        environment = {**os.environ, "GPU_SESSION": str(tmp_path / "session"), "PYTHON": python}
        environment |= {"PFL_PYTHON": str(tmp_path / "none"), "FLOWER_PYTHON": "/bin/false"}
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)

    first = session()
    assert first.returncode == 0, first.stdout
    assert "tests: done in" in first.stdout
    done, lenet, *left_out = session().stdout.splitlines()
    assert (done, lenet) == ("tests: done before", "lenet: done before")
    assert left_out[0].startswith(f"beside pfl: left out, {tmp_path / 'none'} does not find pfl;")
    assert left_out[1].endswith("or name another one in FLOWER_PYTHON")
    (tmp_path / "session" / "lenet.done").unlink()
    broken = session(python="false")
    assert broken.returncode == 1
    assert "tests: done before\nlenet: failed after" in broken.stdout


@pytest.mark.slow
def test_a_contender_without_an_effect_of_its_own_is_refused(tmp_path: Path) -> None:
    """pfl's network, with its dropout, trains clients together as the bare loop trains it; mixup keeps it from that."""
    together = ("fedlens-vectorized-4-workers-1", "bare")
    done = speed("cifar-small", *together)
    assert done.returncode == 0, done.stdout + done.stderr
    done = speed("cifar-small", *together, "--set", "optimizer.mixup=0.2")
    assert done.returncode == 1
    assert "runtime.vectorize=4 has no effect" in done.stderr
    assert "bare" in done.stdout, "the others compete without it"


def speed(workload: str, *contenders: str) -> subprocess.CompletedProcess[str]:
    """contenders: and options behind them."""
    least = ("--repetitions", "1", "--rounds", "1", "--warm-up", "2", "--at-once")
    command = [sys.executable, str(BENCHMARKS / "speed.py"), workload, *least, "--contenders", *contenders]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT)


@pytest.fixture
def peers(script: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Where the contenders' modules find each other."""
    script.setattr(sys, "path", [str(BENCHMARKS / "peers"), *sys.path])
    return script


@pytest.mark.parametrize("name", ["lenet", "cnn", "mobilenetv3", "cifar", "resnet18"])
def test_fedlens_is_configured_to_do_the_work_of_its_peers(name: str, peers: pytest.MonkeyPatch) -> None:
    from workload import WORKLOADS

    work, config = WORKLOADS[name], yaml.safe_load((BENCHMARKS / "configs" / f"speed-{name}.yaml").read_text())
    federated, data = config["federated"], config["data"]
    assert data["partition"] == {"scheme": "iid", "clients": work.clients}
    assert data.get("rows", work.clients * work.images) == work.clients * work.images
    assert (federated["local_epochs"], federated["batch_size"]) == (work.epochs, work.batch)
    assert (federated["fraction_fit"], federated["min_fit_clients"]) == (work.cohort / work.clients, work.cohort)
    assert config["optimizer"] == {"name": "sgd", "lr": work.lr, "momentum": work.momentum}


@pytest.mark.parametrize("name, steps, numbers", [("cifar", 250, 1_626_442), ("resnet18", 5000, 11_181_642)])
def test_the_settings_that_peers_have_published(name: str, steps: int, numbers: int, peers: pytest.MonkeyPatch) -> None:
    from workload import WORKLOADS, batches, clients

    work = WORKLOADS[name]
    assert work.steps == steps
    assert sum(parameter.numel() for parameter in work.build().parameters()) == numbers
    (images, labels), *others = clients(WORKLOADS[f"{name}-small"])
    assert images.shape[1:] == (3, 32, 32)
    assert 0 <= images.min() < 0.1
    assert 0.9 < images.max() <= 1
    assert len(others) == WORKLOADS[f"{name}-small"].clients - 1
    small = WORKLOADS[f"{name}-small"]
    assert small.cohort * len([*batches((images, labels), small)]) == small.steps


def test_contenders_by_name(peers: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from contender import command, known

    for peer in ("PFL", "FLOWER", "BLAZEFL"):
        peers.setenv(f"{peer}_PYTHON", sys.executable)
    here = f"{BENCHMARKS / 'peers'}{os.sep}"

    def words(name: str) -> str:
        return " ".join(command(known(name), "cifar", "cuda")).replace(here, "").removeprefix(f"{sys.executable} ")

    assert words("fedlens") == "fedlens_fedavg.py cifar cuda"
    both = words("fedlens-vectorized-10-workers-4")
    assert both == "fedlens_fedavg.py cifar cuda runtime.vectorize=10 runtime.workers=4"
    assert words("pfl") == "pfl_start.py cifar cuda"
    assert "--nproc-per-node 8 " in words("pfl-8")
    assert words("flower-6") == "flower_fedavg.py cifar cuda tuned 6"
    assert words("flower-quick-start") == "flower_fedavg.py cifar cuda quick-start"
    assert words("blazefl-threads-4") == "blazefl_fedavg.py cifar cuda threads 4"
    with pytest.raises(ArgumentTypeError, match="'pfl-many' is no contender; there are fedlens"):
        known("pfl-many")
    peers.setenv("PFL_PYTHON", str(tmp_path / "none"))
    with pytest.raises(
        SystemExit, match=r"no such interpreter; run benchmarks/setup\.sh pfl, or name one in PFL_PYTHON"
    ):
        command("pfl", "cifar", "cuda")


def test_figures_of_the_same_gpu_are_added_to(script: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import machine

    kept_before = runpy.run_path(str(BENCHMARKS / "gpu.py"))["kept_before"]
    script.setattr(machine, "RESULTS", tmp_path)
    assert kept_before({"gpu": "one", "torch": "2"}) == {}
    record = {"machine": {"gpu": "one", "torch": "2"}, "found": {"lenet bf16": {"ratio": 1}}}
    (tmp_path / "gpu.json").write_text(json.dumps(record), encoding="utf-8")
    assert kept_before({"gpu": "one", "torch": "2"}) == record["found"]
    assert kept_before({"gpu": "another", "torch": "2"}) == {}


def test_the_lines_of_scale_are_found_again_and_points_kept(script: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Points that lie on 2 + 3e-5 · population + 0.01 · clients + 0.001 · images are fitted without error."""
    import machine

    scale = runpy.run_path(str(BENCHMARKS / "scale.py"))
    points = [point for point in scale["POINTS"] if point.model == "lenet"]
    found = {
        point: {
            "start": 1 + 2e-5 * point.population,
            "rounds": [(point.cohort, 2 + 3e-5 * point.population + (0.01 + 0.001 * point.images) * point.cohort)] * 3,
            "memory": [{"coordinator": 100 + point.population, "workers": 0}],
        }
        for point in points
    }
    lines = scale["fits"](found)
    terms = {"1": 2, "population": 3e-5, "clients": 0.01, "images": 0.001}
    assert lines["round"].terms == pytest.approx(terms)
    assert lines["round"].error_largest < 1e-6
    assert lines["memory"].terms == pytest.approx({"1": 100, "population": 1})
    assert "| 10,000 | 332.0 s |" in "\n".join(scale["extrapolated"](lines))  # 2 + 30 + 10,000 · (0.01 + 0.02)
    scale["picture"](found, tmp_path / "scale.svg")
    assert (tmp_path / "scale.svg").stat().st_size > 10_000
    script.setattr(machine, "RESULTS", tmp_path)
    facts = {"cpu": "one", "cores": 2, "torch": "2"}
    assert scale["kept_before"](facts) == {}
    (tmp_path / "scale.json").write_text(json.dumps({"machine": facts, "points": {"a": 1}}), encoding="utf-8")
    assert scale["kept_before"](facts) == {"a": 1}
    assert scale["kept_before"]({**facts, "cores": 4}) == {}


def smallest_work(tmp_path: Path, name: str, *arguments: str) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments, "--small"]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "figures of the least work are not kept" in done.stdout


@pytest.mark.slow
def test_rounds_between_machines_beside_stock_flower(tmp_path: Path) -> None:
    """What `--small` leaves out: Flower's own SuperLink, SuperNodes and app."""
    sys.path.append(str(BENCHMARKS))
    try:
        from stock_flower import StockFlower

        with StockFlower("tiny", tmp_path / "flower") as flower:
            seconds = flower.burst(1)
    finally:
        sys.path.remove(str(BENCHMARKS))
    assert len(seconds) == 1
    assert seconds[0] > 0
