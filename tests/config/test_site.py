"""site.yaml: what its administrator decides, and every mistake as one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.problems import refuses, refuses_with

from fedlens.config.site import SiteConfig, load_site
from fedlens.errors import Code, ConfigError

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
    ("code", "override", "words"),
    [
        ("out_of_range", "partition_id=-1", "must be a whole number from 0 to 1,000,000 (command line)"),
        ("wrong_type", "partition_id=first", "must be a whole number from 0 to 1,000,000"),
        ("wrong_type", "partition_id=true", "partition_id = true: must be a whole number"),
        ("wrong_type", "threads=true", "threads = true: must be a whole number"),
        ("wrong_type", "allow.max_local_epochs=true", "allow.max_local_epochs = true: must be a whole number"),
        ("wrong_type", "stay=sometimes", "must be true or false"),
        ("invalid_value", "device=tpu", "must be text such as auto, cpu, cuda, cuda:1, mps"),
        ("out_of_range", "threads=0", "must be a whole number from 1 to 1,024 or null"),
        ("unknown_choice", "on_bad_image=skips", "must be one of skip, fail (did you mean skip?)"),
        ("unknown_key", "data_dirs=photos", "data_dirs: unknown key. Did you mean data_dir?"),
        ("unknown_key", "allow.strategy=[fedavg]", "Did you mean allow.strategies? Known here: strategies"),
        ("unknown_key", "max_rounds=3", "max_rounds: unknown key. Did you mean allow.max_rounds?"),
        ("out_of_range", "allow.max_rounds=0", "must be a whole number from 1 to 1,000,000 or null"),
        ("out_of_range", "allow.max_epsilon=0", "must be a number above 0 or null"),
        ("wrong_type", "allow.strategies=fedavg", "must be a list, each item text or null"),
        ("wrong_type", "allow=everything", "must be a section of keys"),
        ("wrong_type", "plugins=own.py", "plugins = 'own.py': must be a list, each item a path"),
        ("wrong_type", "plugins=[[own.py]]", "plugins = ['own.py']: must be a list, each item a path"),
        ("invalid_value", "name=a/b", "must be letters (of any script), digits, spaces and"),
        ("invalid_value", "name=..", "must be letters (of any script), digits, spaces and"),
        ("invalid_value", "name=''", "must be letters (of any script), digits, spaces and"),
    ],
)
def test_each_mistake_is_one_line(code: Code, override: str, words: str) -> None:
    with refuses((code, override.partition("=")[0])) as caught:
        load_site(None, ["data_dir=photos", override])
    assert words in str(caught.value)


def test_missing_images_and_what_is_no_override() -> None:
    with refuses_with("missing", "data_dir is missing: --data_dir FOLDER, or data_dir: in site.yaml"):
        load_site(None, [])
    with refuses(("syntax", "partition_id")):
        load_site(None, ["data_dir=photos", "partition_id"])


def test_all_mistakes_at_once_with_their_lines(tmp_path) -> None:
    path = write(tmp_path, "partition_id: -1\nstay: yes please\nallow:\n  max_rounds: none\n  secrecy: high\n")
    with pytest.raises(ConfigError) as caught:
        load_site(path, ["threads=0"])
    places = {one.key: one.line.rpartition("(")[2] for one in caught.value.problems}
    in_file = {"partition_id": 1, "stay": 2, "allow.max_rounds": 4, "allow.secrecy": 5}
    assert places == {key: f"{path}, line {line})" for key, line in in_file.items()} | {
        "threads": "command line)", "data_dir": places["data_dir"],
    }  # fmt: skip


def test_an_empty_section_and_a_wrong_one(tmp_path) -> None:
    assert load_site(write(tmp_path, "data_dir: a\nallow:\n"), []).allow.max_message_mb == 2000
    with refuses_with("wrong_type", "allow = 'all': must be a section of keys"):
        load_site(write(tmp_path, "data_dir: a\nallow: all\n"), [])
    assert load_site(write(tmp_path, "data_dir: a\nallow: all\n"), ["allow.max_rounds=3"]).allow.max_rounds == 3


@pytest.mark.parametrize(
    ("text", "code"),
    [("data_dir: [", "syntax"), ("- data_dir", "wrong_type"), ("just words", "wrong_type"), (None, "not_found")],
)
def test_a_file_that_is_none(tmp_path, text: str | None, code: Code) -> None:
    path = tmp_path / "nowhere.yaml" if text is None else write(tmp_path, text)
    with refuses((code, str(path))):
        load_site(path, [])


def test_a_key_that_is_given_twice(tmp_path) -> None:
    with refuses(("duplicate", "data_dir")) as caught:
        load_site(write(tmp_path, "data_dir: a\ndata_dir: b\n"), [])
    assert str(tmp_path / "site.yaml") in str(caught.value)
