"""What is computed does not change by the way: final models, against those of an earlier commit on the same machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

REFERENCE = "4fc45dd"
"""The last commit at which a change of the models was meant."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_final_models_are_those_of_the_reference() -> None:
    look = ["git", "cat-file", "-e", f"{REFERENCE}^{{commit}}"]
    if subprocess.run(look, cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("the history that holds the reference is not there")
    command = [sys.executable, str(ROOT / "tools" / "final_models.py"), "--against", REFERENCE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"12 models are those of {REFERENCE}\n")
