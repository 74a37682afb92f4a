"""`fedlens certs`, through the whole command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedlens.cli.main import app
from fedlens.flower import signing
from fedlens.flower.key_files import Certificate


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


def invoke(*arguments):
    return CliRunner().invoke(app, ["certs", *arguments])


def run(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def rows(text):
    """The table's rows by their first column, without lines that only continue one."""
    parts = [[part.strip() for part in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return {part[0]: part[1:] for part in parts}


@pytest.fixture
def certs():
    run("create", "--hosts", "server.example.org, 192.0.2.7", "--clients", "5", "--out", "certs")


def test_from_creation_to_revocation(certs, tmp_path):
    assert sorted(folder.name for folder in (tmp_path / "certs/clients").iterdir()) == [
        f"client{n}" for n in range(1, 6)
    ]
    assert "client6, client7" in run("add", "--clients", "2", "--out", "certs").stdout
    run("add", "--names", "berlin,paris", "--out", "certs")
    assert "client3 is revoked" in run("revoke", "client3", "--out", "certs").stdout

    shown = run("show", "certs")
    entries = json.loads((tmp_path / "certs/registry.json").read_text())
    table = rows(shown.stdout)
    today = entries["client3"]["revoked"][:10]
    assert table["client3"] == [today, "", today, entries["client3"]["fingerprint"]]
    assert table["client4"] == [today, "", "", entries["client4"]["fingerprint"]]
    assert {"authority", "server", "server.example.org", "192.0.2.7", "::1", "client7", "berlin", "paris"} < set(table)
    until = datetime.now(UTC) + timedelta(days=825)
    assert table["server"][1] in {f"{until - timedelta(minutes=minutes):%Y-%m-%d}" for minutes in (0, 5)}
    assert shown.stderr == ""


def test_create_says_who_gets_what(tmp_path):
    text = run("create", "--hosts", "localhost", "--names", "berlin,paris", "--out", "deep/certs").stdout
    assert "berlin, paris" in text
    assert "On the server: deep/certs/ca.crt, deep/certs/server, deep/certs/registry.json" in text
    assert "its folder in deep/certs/clients" in text


def test_show_warns_of_what_ends_soon_and_of_what_has_ended(monkeypatch):
    run("create", "--hosts", "localhost", "--clients", "1", "--days", "10", "--out", "soon")
    soon = run("show", "soon").stderr
    day = f"{Certificate.read(Path('soon/server/server.crt')).ends:%Y-%m-%d}"
    assert soon == f"soon/server/server.crt: ends on {day}, in 9 days; renew it: fedlens certs renew --out soon\n"

    with monkeypatch.context() as patch:
        patch.setattr(signing, "now", lambda: datetime.now(UTC) - timedelta(days=4000))
        run("create", "--hosts", "localhost", "--clients", "1", "--out", "old")
    old = run("show", "old").stderr
    assert "old/server/server.crt: ended on" in old
    assert "old/ca.crt: ended on" in old


def test_renew(certs):
    assert "certs/server/server.crt: ends on" in run("renew", "--out", "certs", "--days", "9").stdout
    assert "in 8 days; renew it" in run("show", "certs").stderr
    run("renew", "--out", "certs", "--hosts", "other.example.org")
    table = rows(run("show", "certs").stdout)
    assert "other.example.org" in table
    assert "server.example.org" not in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "--hosts", "a.org,", "--clients", "1", "--out", "new"], "--hosts ''"),
        (["create", "--hosts", "a.org", "--out", "new"], "--clients 5, or their names"),
        (
            ["create", "--hosts", "a.org", "--clients", "1", "--names", "a", "--out", "new"],
            "--clients 5, or their names",
        ),
        (["add", "--clients", "-3", "--out", "certs"], "--clients -3"),
        (["renew", "--out", "certs", "--hosts", ""], "--hosts ''"),
        (["show", "new"], "new: no such folder"),
    ],
)
def test_mistakes_are_one_line(certs, tmp_path, arguments, words):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert not (tmp_path / "new").exists()
