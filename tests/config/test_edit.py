"""Keys set in a YAML file: the rest of the text stays as it was, and a file that changed meanwhile is left alone."""

from pathlib import Path

import pytest

from fedlens.config.edit import read_text, with_values, write_values
from fedlens.errors import ConfigError

FILE = """\
# An experiment.
model:
  name: cnn                # of 2017
memory:                    # as it fits
    micro_batch: 16   # images
    precision: fp32

data: {source: sample, image_size: 32}
runtime:
# the end
"""


@pytest.mark.parametrize(
    ("text", "values", "after"),
    [
        (FILE, {"memory.micro_batch": 8}, FILE.replace("micro_batch: 16 ", "micro_batch: 8 ")),
        (
            FILE,
            {"memory.channels_last": False},
            FILE.replace("precision: fp32\n", "precision: fp32\n    channels_last: false\n"),
        ),
        (FILE, {"data.augment": "none"}, FILE.replace("image_size: 32}", 'image_size: 32, augment: "none"}')),
        (FILE, {"runtime.workers": 2}, FILE.replace("runtime:\n", "runtime:\n  workers: 2\n")),
        (
            FILE,
            {"data.partition.clients": 4},
            FILE.replace("image_size: 32}", "image_size: 32, partition: {clients: 4}}"),
        ),
        (
            "seed: 1",
            {"runtime.workers": 1, "runtime.threads_per_worker": 2},
            "seed: 1\nruntime:\n  workers: 1\n  threads_per_worker: 2\n",
        ),
        ("", {"memory.micro_batch": 8}, "memory:\n  micro_batch: 8\n"),
        ("# nothing yet\n", {"memory.micro_batch": 8}, "# nothing yet\nmemory:\n  micro_batch: 8\n"),
        ("memory:\n  micro_batch:\n", {"memory.micro_batch": 8}, "memory:\n  micro_batch: 8\n"),
        ("memory: {}\n", {"memory.micro_batch": 8}, "memory: {micro_batch: 8}\n"),
        ("{seed: 1}\n", {"memory.micro_batch": 8}, "{seed: 1, memory: {micro_batch: 8}}\n"),
        ("plugins:\n  - a.py\n  - b.py\n", {"seed": 2}, "plugins:\n  - a.py\n  - b.py\nseed: 2\n"),
    ],
)
def test_only_the_key_changes(text: str, values: dict, after: str) -> None:
    assert with_values(text, values) == after


def test_a_form_that_no_line_can_be_added_to_is_refused(tmp_path: Path) -> None:
    text = "memory: {micro_batch: 4 # few\n  }\n"
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml: the lines cannot be added .* by hand"):
        write_values(path, text, {"memory.precision": "bf16"})
    assert path.read_text() == text


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("seed: 1\n")
    before = read_text(path)
    path.write_text("seed: 2\n")
    with pytest.raises(ConfigError, match="has changed while it was measured"):
        write_values(path, before, {"seed": 3})
    assert path.read_text() == "seed: 2\n"


def test_a_link_stays_a_link_and_permissions_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "real.yaml", tmp_path / "config.yaml"
    path.write_text("seed: 1\r\n", newline="")
    path.chmod(0o600)
    link.symlink_to(path)
    write_values(link, read_text(link), {"seed": 3})
    assert link.is_symlink()
    assert path.read_bytes() == b"seed: 3\r\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert {file.name for file in tmp_path.iterdir()} == {"config.yaml", "real.yaml"}
