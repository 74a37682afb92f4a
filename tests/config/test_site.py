"""site.yaml: what its administrator decides, and every mistake as one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlens.config.site import SiteConfig, load_site
from fedlens.errors import ConfigError

WHOLE = """\
server_address: fed.example.org:8080
data_dir: /data/photos
partition_id: 4
name: clinic-4
certs: /etc/fedlens/clinic-4
stay: true
plugins: [own.py]
allow:
  strategies: [fedavg, fedprox]
  models: []
  max_local_epochs: 5
  max_message_mb: 300
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path | None, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_site(path, list(overrides))
    return tuple(map(str, caught.value.problems))


def the_mistake(*overrides: str) -> str:
    lines = mistakes(None, "data_dir=photos", *overrides)
    assert len(lines) == 1, lines
    assert "\n" not in lines[0]
    return lines[0]


def test_a_whole_file(tmp_path) -> None:
    site = load_site(write(tmp_path, WHOLE), [])
    assert (site.client, site.partition_id, site.stay) == ("clinic-4", 4, True)
    assert site.data_dir == Path("/data/photos")
    assert site.plugins == [Path("own.py")]
    assert site.allow.strategies == ["fedavg", "fedprox"]
    assert site.allow.models == []
    assert (site.allow.max_local_epochs, site.allow.max_rounds, site.allow.min_images) == (5, None, None)


def test_options_go_over_the_file(tmp_path) -> None:
    given = ["partition_id=1", "allow.max_rounds=9", "data_dir=here", "name=null"]
    site = load_site(write(tmp_path, WHOLE), given)
    assert (site.client, site.data_dir) == ("client2", Path("here"))
    assert (site.allow.max_rounds, site.allow.max_local_epochs) == (9, 5)


def test_only_the_images_have_to_be_said() -> None:
    site = load_site(None, ["data_dir=photos"])
    assert (site.client, site.server_address, site.stay) == ("client1", "127.0.0.1:8080", False)
    assert site.allow.strategies is None
    assert site.allow.max_message_mb == 2000


def test_where_a_sites_state_is(monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    monkeypatch.setenv("HOME", "/home/ann")
    given = {"data_dir": "photos", "partition_id": 2}
    assert SiteConfig(**given).state == Path("/state/fedlens/client3")
    assert SiteConfig(**given, state_dir="~/own").state == Path("/home/ann/own")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert SiteConfig(**given).state == Path("/home/ann/.local/state/fedlens/client3")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("partition_id=-1", "partition_id = -1: must be a whole number from 0 to 1,000,000 (command line)"),
        ("partition_id=first", "partition_id = 'first': must be a whole number from 0 to 1,000,000"),
        ("stay=sometimes", "stay = 'sometimes': must be true or false"),
        ("device=tpu", "device = 'tpu': must be text such as auto, cpu, cuda, cuda:1, mps"),
        ("threads=0", "threads = 0: must be a whole number from 1 to 1,024 or null"),
        ("on_bad_image=skips", "on_bad_image = 'skips': must be one of skip, fail (did you mean skip?)"),
        ("data_dirs=photos", "data_dirs: unknown key. Did you mean data_dir?"),
        (
            "allow.strategy=[fedavg]",
            "allow.strategy: unknown key. Did you mean allow.strategies? Known here: strategies",
        ),
        ("max_rounds=3", "max_rounds: unknown key. Did you mean allow.max_rounds?"),
        ("allow.max_rounds=0", "allow.max_rounds = 0: must be a whole number from 1 to 1,000,000 or null"),
        ("allow.max_epsilon=0", "allow.max_epsilon = 0: must be a number above 0 or null"),
        ("allow.strategies=fedavg", "allow.strategies = 'fedavg': must be a list, each item text or null"),
        ("allow=everything", "allow = 'everything': must be a section of keys"),
        ("plugins=own.py", "plugins = 'own.py': must be a list, each item a path"),
        ("plugins=[[own.py]]", "plugins = ['own.py']: must be a list, each item a path"),
        ("name=a/b", "name = 'a/b': must be letters (of any script), digits, spaces and"),
        ("name=..", "name = '..': must be letters (of any script), digits, spaces and"),
        ("name=''", "name = '': must be letters (of any script), digits, spaces and"),
        ("partition_id", "'partition_id': must be key.sub=value (command line)"),
    ],
)
def test_each_mistake_is_one_line(override: str, line: str) -> None:
    assert the_mistake(override).startswith(line)


def test_missing_images() -> None:
    assert mistakes(None) == ("data_dir is missing: --data_dir FOLDER, or data_dir: in site.yaml",)


def test_all_mistakes_at_once_with_their_lines(tmp_path) -> None:
    path = write(tmp_path, "partition_id: -1\nstay: yes please\nallow:\n  max_rounds: none\n  secrecy: high\n")
    lines = mistakes(path, "threads=0")
    assert len(lines) == 6
    places = {line.split(" ")[0].rstrip(":"): line for line in lines}
    for key, number in (("partition_id", 1), ("stay", 2), ("allow.max_rounds", 4), ("allow.secrecy", 5)):
        assert f"{path}, line {number}" in places[key]
    assert "(command line)" in places["threads"]


def test_an_empty_section_and_a_wrong_one(tmp_path) -> None:
    assert load_site(write(tmp_path, "data_dir: a\nallow:\n"), []).allow.max_message_mb == 2000
    (line,) = mistakes(write(tmp_path, "data_dir: a\nallow: all\n"))
    assert line.startswith("allow = 'all': must be a section of keys")
    assert load_site(write(tmp_path, "data_dir: a\nallow: all\n"), ["allow.max_rounds=3"]).allow.max_rounds == 3


@pytest.mark.parametrize("text", ["data_dir: [", "- data_dir", "just words", "data_dir: a\ndata_dir: b\n"])
def test_a_file_that_is_none(tmp_path, text: str) -> None:
    (line,) = mistakes(write(tmp_path, text))
    assert str(tmp_path / "site.yaml") in line


def test_no_file(tmp_path) -> None:
    (line,) = mistakes(tmp_path / "nowhere.yaml")
    assert "nowhere.yaml" in line


@pytest.mark.parametrize("key", ["partition_id", "threads", "allow.max_local_epochs"])
def test_true_is_no_number(key: str) -> None:
    assert the_mistake(f"{key}=true").startswith(f"{key} = true: must be a whole number")
