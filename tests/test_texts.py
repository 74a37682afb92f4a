"""Texts that anybody may have written: read within bounds, or refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given
from tests.problems import refuses_with

from fedlens.build.load import load
from fedlens.config.site import load_site
from fedlens.core.files import parse_json, read_json
from fedlens.core.yaml_text import LONGEST, could_be_deep, parse_value, read_file
from fedlens.errors import ConfigError, FedLensError
from fedlens.reports.load import load_run

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 12)
)
"""Ten to the twelfth values, once its aliases are written out."""

HOSTILE = {
    "aliases": (LAUGHS, "holds more than 100,000 values"),
    "merged": (LAUGHS.replace("[", "{a: [").replace("]", "]}"), "holds more than 100,000 values"),
    "itself": ("a: &a [*a]\n", "refers to itself"),
    "deep": ("a: " + "[" * 5_000 + "]" * 5_000 + "\n", "nested too deeply"),
    "deeper": ("a: " + "[" * 100_000 + "\n", "nested too deeply"),  # would end the process in PyYAML's C
    "steps": ("".join(f"{' ' * number}a:\n" for number in range(600)), "nested too deeply"),
    "digits": (f"seed: {'9' * 5_000}\n", "a number of 5,000 digits"),
    "zero": ("seed: 1\nname: a\0b\n", "is not YAML (the control character U+0000 in line 2)"),
    "tag": ("seed: !!int many\n", "is not YAML"),
    "date": ("seed: !!timestamp soon\n", "is not YAML"),
    "long": ("seed: 1 # " + "x" * LONGEST, "at most 256,000 are read"),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("reader", [load, lambda path: load_site(path, []), lambda path: load_run(path.parent)])
def test_a_hostile_text_is_refused_in_one_line(tmp_path: Path, what: str, reader) -> None:
    """As a configuration, as a site's, and as what a run has saved."""
    text, reason = HOSTILE[what]
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(FedLensError) as caught:
        reader(file)
    (line,) = str(caught.value).splitlines()
    assert str(file) in line
    assert reason in line


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    pipe = tmp_path / "pipe.yaml"
    with refuses_with("unreadable", f"{pipe}: cannot be read (a named pipe, not a regular file)"):
        load(pipe)
    with refuses_with("unreadable", "/dev/zero: cannot be read (a device, not a regular file)"):
        load(Path("/dev/zero"))


def test_aliases_in_bounds_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")
    assert read_file(file).tree == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, "{", "\udc80", '{"a": 1}x'])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        parse_json(text.encode(errors="surrogateescape"))


def test_a_pipe_is_no_json(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(OSError, match="a named pipe"):
        read_json(tmp_path / "a.json")


KEYS = st.sampled_from(["model", "data", "seed", "federated", "num_rounds", "name", "path", "<<", "lora", "plugins"])
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4)
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@pytest.mark.fuzz
@given(
    tree=st.dictionaries(KEYS, TREES, max_size=6),
    cut=st.integers(0, 40),
    more=st.text("&*!<>|[]{}:, -\n#'\"aé", max_size=12),
)
def test_any_configuration_is_one_or_refused(
    tmp_path_factory: pytest.TempPathFactory, tree, cut: int, more: str
) -> None:
    file = tmp_path_factory.mktemp("texts") / "config.yaml"
    text = yaml.safe_dump(tree, allow_unicode=True)
    file.write_text(text[:cut] + more + text[cut:], encoding="utf-8", errors="replace")
    for reader in (load, lambda path: load_site(path, [])):
        try:
            reader(file)
        except ConfigError as error:
            assert all(one.line for one in error.problems)


OVERRIDES = st.one_of(
    st.text(max_size=20),
    st.builds(
        "{}={}".format,
        st.sampled_from(
            [
                "data.path",
                "seed",
                "tracking.name",
                "model",
                "model.freeze",
                "plugins",
                "data.partition",
                "strategy.mu",
                "x",
            ]
        ),
        st.text(max_size=12)
        | st.sampled_from(["~nobody", "\0", "9" * 5_000, "[" * 300, "*a", "&a [*a]", "!!int x", ""]),
    ),
)


@pytest.mark.fuzz
@given(overrides=st.lists(OVERRIDES, max_size=4))
def test_any_overrides_are_a_configuration_or_refused(overrides: list[str]) -> None:
    try:
        load(None, overrides)
    except ConfigError as error:
        assert all(one.line for one in error.problems)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1e-3\nb: 010\nc: 1:30\nd: no\ne: 2024-01-01\nf: true\ng: ~\nh: .inf\ni: 'x'\nj: [1, {k: -2.5}]",
        "base: &a {x: 1}\nmore: {<<: *a, y: 1_000}",
        "text: |\n  two\n  lines\nnone:",
    ],
)
def test_the_quick_loader_reads_the_same(text: str) -> None:
    assert not could_be_deep(text)
    deep = f"{text}\n# {'[' * 600}"
    assert could_be_deep(deep)
    assert parse_value(text) == parse_value(deep)
