"""FedLens where it was installed from its own archives: in an empty environment, outside the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from tests.test_project import PROJECT, ROOT, VERSION

UV = Path(sys.executable).with_name("uv")
PYTHONS = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["project"]["classifiers"]), re.MULTILINE)
PINNED = ("--constraint", str(ROOT / "constraints.txt"))
MINUTES = 60

CONFIGURATION = """
model: {name: lenet}
federated: {num_rounds: 2, fraction_fit: 0.2}
runtime: {workers: 2}
"""


def done(*command: str | Path, cwd: Path, minutes: float = 20) -> str:
    """What a command prints, which must work; without what the tests' own environment sets for Python."""
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    ended = subprocess.run(
        list(map(str, command)), cwd=cwd, env=clean, check=False, capture_output=True, text=True, timeout=60 * minutes
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what `make dist` makes."""
    folder = tmp_path_factory.mktemp("dist")
    done(UV, "build", "--quiet", "--build-constraint", ROOT / "constraints.txt", "--out-dir", folder, cwd=ROOT)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Path]:
    """A folder for one environment, beside which nothing of the repository can be imported. It is removed at once: it
    takes 5 GB where the package cache is on another disk."""
    yield tmp_path / "environment"
    shutil.rmtree(tmp_path / "environment", ignore_errors=True)


def install(environment: Path, wheel: Path, *how: str, python: str = sys.executable) -> None:
    found = subprocess.run(
        [UV, "venv", "--quiet", "--python", python, "--no-python-downloads", environment],
        check=False,
        capture_output=True,
        text=True,
    )
    if found.returncode:
        pytest.skip(f"there is no Python {python} here: {found.stderr.strip().splitlines()[0]}")
    place = ("--python", environment / "bin" / "python")
    done(UV, "pip", "install", "--quiet", *place, *how, wheel, cwd=environment.parent)


def runs(environment: Path) -> dict[str, str]:
    """Run an experiment as a user does who has nothing but the package; gives the versions that it ran with."""
    here = environment.parent / "here"
    here.mkdir()
    (here / "config.yaml").write_text(CONFIGURATION)
    fedlens = environment / "bin" / "fedlens"
    assert VERSION in done(fedlens, "--version", cwd=here)
    said = done(fedlens, "run", "config.yaml", "--name", "first", cwd=here)
    assert "test accuracy" in said
    (run,) = (here / "logs").glob("first-*")
    assert (run / "report.html").stat().st_size > 1_000_000  # with plotly's script
    assert list(run.glob("events.out.tfevents.*"))
    assert "%" in done(fedlens, "predict", run, picture(here), cwd=here)
    assert done(environment / "bin" / "tensorboard", "--version_tb", cwd=here).strip()
    from_python = "import fedlens; print(fedlens.__file__, fedlens.load_run('logs/latest').metrics['train_loss'].size)"
    place, rounds = done(environment / "bin" / "python", "-c", from_python, cwd=here).split()
    assert Path(place).is_relative_to(environment)
    assert rounds == "2"
    versions: dict[str, str] = json.loads((run / "versions.json").read_text())["packages"]
    return versions


def picture(folder: Path) -> Path:
    import cv2
    import numpy as np

    assert cv2.imwrite(str(folder / "photo.png"), np.full((28, 28, 3), 90, np.uint8))
    return folder / "photo.png"


@pytest.mark.slow
def test_the_wheel_has_all_that_a_user_needs_and_nothing_else(archives: Path) -> None:
    (wheel,) = archives.glob("*.whl")
    assert wheel.name == f"fedlens-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        metadata = Parser().parsestr(packed.read(f"fedlens-{VERSION}.dist-info/METADATA").decode())
    ours = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "fedlens").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours >= {"fedlens/py.typed", "fedlens/data/sample/fashion_mnist_excerpt.npz", "fedlens/reports/page.html"}
    info = f"fedlens-{VERSION}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == ours
    assert {f"{info}licenses/LICENSE", f"{info}licenses/src/fedlens/data/sample/LICENSE"} <= names
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["project"]["optional-dependencies"])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == PROJECT["project"]["requires-python"]


@pytest.mark.slow
def test_the_source_archive_has_the_tests_and_what_builds_it(archives: Path) -> None:
    (archive,) = archives.glob("*.tar.gz")
    assert archive.stat().st_size < 20_000_000
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert names >= {"pyproject.toml", "Makefile", "constraints.txt", "LICENSE", "CITATION.cff", "tests/conftest.py",
                     "src/fedlens/py.typed", "docs/index.md", "notebooks/quick_start.ipynb"}  # fmt: skip
    assert not [name for name in names if name.startswith((".venv", ".git/", "logs", "dist"))]


@pytest.mark.slow
@pytest.mark.timeout(15 * MINUTES)
def test_the_wheel_runs_in_an_empty_environment(archives: Path, environment: Path) -> None:
    (wheel,) = archives.glob("*.whl")
    install(environment, wheel, *PINNED)
    assert runs(environment)["fedlens"] == VERSION


@pytest.mark.full
@pytest.mark.parametrize("python", PYTHONS[1:])
def test_the_wheel_runs_on_every_python_that_is_promised(archives: Path, environment: Path, python: str) -> None:
    (wheel,) = archives.glob("*.whl")
    install(environment, wheel, *PINNED, python=python)
    runs(environment)


@pytest.mark.full
def test_the_wheel_runs_with_the_lowest_versions_that_it_asks_for(archives: Path, environment: Path) -> None:
    (wheel,) = archives.glob("*.whl")
    install(environment, wheel, "--resolution", "lowest-direct", "--requirements", str(ROOT / "pyproject.toml"))
    runs(environment)
    place = ("--python", environment / "bin" / "python")
    listed = json.loads(done(UV, "pip", "list", "--format", "json", *place, cwd=environment.parent))
    found = {package["name"]: package["version"] for package in listed}
    asked = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in PROJECT["project"]["dependencies"])
    higher = {name: found[name] for name, lowest in asked.items() if not found[name].startswith(lowest)}
    assert not higher, "other packages ask for these: raise the bounds"
