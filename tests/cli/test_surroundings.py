"""The command in surroundings that laboratories, containers and pipes have: no traceback anywhere."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from tests.problems import refuses

from fedlens.cli import surroundings
from fedlens.cli.main import main


def fedlens(arguments: str, *, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m fedlens` below a shell."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    return subprocess.run(
        ["bash", "-c", f"{before} {sys.executable} -m fedlens {arguments}"],
        capture_output=True,
        env=kept | environment,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def test_an_encoding_that_lacks_characters_gets_replacements():
    done = fedlens("doctor", PYTHONIOENCODING="ascii")
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)  # it finds no server
    assert "?" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("arguments", ["models", "strategies", "doctor"])
def test_every_table_is_shown_in_such_an_encoding(encoding, arguments, monkeypatch):
    """In this process: an interpreter of its own takes seconds to begin."""
    shown = io.BytesIO()
    with monkeypatch.context() as patch:
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, io.TextIOWrapper(shown, encoding, write_through=True))
        patch.setattr(surroundings, "mend_home", lambda: None)
        patch.setattr("fedlens.cli.signals.as_interrupts", lambda: None)
        patch.setattr(sys, "argv", ["fedlens", arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.detach()
        sys.stderr.detach()
    assert ended.value.code in (0, 1)
    assert b"Traceback" not in shown.getvalue()


def test_a_full_output_is_one_line():
    done = fedlens("strategies > /dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "output cannot be written (No space left on device): is its disk full, or its reader gone?"
    ]


@pytest.mark.parametrize(
    "arguments", ["--version >&-", "config show <&- >&- 2>&-", "run --help | head -n 1 > /dev/null"]
)
def test_a_closed_output_is_no_traceback(arguments):
    done = fedlens(arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_deleted_working_folder_is_one_line(tmp_path):
    done = fedlens("config show", before=f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone;")
    assert done.returncode == 2
    assert re.fullmatch(r"the current folder has been deleted: .*\n", done.stderr)


def test_too_little_address_space_is_one_line():
    done = fedlens("models", before="ulimit -v 1000000;", OMP_NUM_THREADS="1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "too little memory" in done.stderr


def test_a_torchvision_of_another_index_is_one_line():
    """What `import torchvision` raises where its operators cannot be loaded: it was built for another PyTorch."""
    line = str(surroundings.told(RuntimeError("operator torchvision::nms does not exist")))
    assert line.startswith(f"torchvision {version('torchvision')} does not fit PyTorch {version('torch')} (operator ")
    assert line.endswith("install both from the same package index")


def test_grpc_logs_what_its_variable_says(monkeypatch):
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    surroundings.quiet_grpc()
    assert os.environ["GRPC_VERBOSITY"] == "DEBUG"


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """A user without an entry in the password file and without $HOME."""

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("HOME", "USER", *surroundings.BELOW_HOME):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(surroundings.Path, "home", nobody)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_user_without_a_home_gets_a_private_one(homeless):
    surroundings.mend_home()
    made = homeless / f"fedlens-home-{os.getuid()}"
    assert made.stat().st_mode & 0o777 == 0o700
    assert os.environ["HOME"] == str(made)
    assert os.environ["XDG_CACHE_HOME"] == str(made / ".cache")


def test_a_home_that_others_can_write_is_refused(homeless):
    (homeless / f"fedlens-home-{os.getuid()}").mkdir()
    (homeless / f"fedlens-home-{os.getuid()}").chmod(0o777)
    with refuses(("insecure", str(homeless / f"fedlens-home-{os.getuid()}"))):
        surroundings.mend_home()


def test_a_home_that_can_be_written_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    surroundings.mend_home()
    assert dict(os.environ) == before
