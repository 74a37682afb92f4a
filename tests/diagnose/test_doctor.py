"""`fedlens doctor` through the command line; and against a real server, whose run it must not disturb."""

from __future__ import annotations

import json
import shutil
import socket
from datetime import timedelta
from importlib.metadata import version

import pytest
from tests.flower.processes import federation
from tests.photos import photos
from typer.testing import CliRunner

from fedlens.cli.main import app
from fedlens.diagnose.doctor import CLIENT, SERVER
from fedlens.diagnose.outcome import Welcome
from fedlens.flower.certificates import create

HERE = Welcome(version("fedlens"), version("flwr"), 0.0, "", (), True)


def doctor(*arguments):
    result = CliRunner().invoke(app, ["doctor", *map(str, arguments)])
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result


def judged(result):
    """Status by name, from the JSON form."""
    return {finding["name"]: finding["status"] for finding in json.loads(result.stdout)["findings"]}


def told(result, name):
    (found,) = [one for one in json.loads(result.stdout)["findings"] if one["name"] == name]
    return found["text"]


@pytest.fixture
def port():
    """One that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def welcomed(monkeypatch, tmp_path):
    """A visit that goes well, on a machine with room, from a site that nobody uses."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("fedlens.diagnose.visit.visit", lambda *_: HERE)
    monkeypatch.setattr("fedlens.diagnose.reach._speaks_tls", lambda _target: False)
    monkeypatch.setattr("fedlens.diagnose.machine._memory", lambda: (10**10, 10**10))
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: shutil._ntuple_diskusage(10**12, 0, 10**12))


def closed():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def test_all_is_well(welcomed, port, tmp_path):
    photos(tmp_path / "photos")
    result = doctor("--server_address", f"127.0.0.1:{port}", "--data_dir", tmp_path / "photos", "--partition_id", 1)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line[:20].split() for line in lines[:-1]] == [["ok", check.name] for check in CLIENT]
    assert lines[-1] == "11 ok"
    assert len({line.index(line[20:].strip()) for line in lines[:-1]}) == 1  # texts begin in one column
    assert "\x1b" not in result.stdout


def test_a_warning_is_no_failure(welcomed, port, tmp_path):
    bad = photos(tmp_path / "photos") / "cup" / "0.png"
    bad.write_bytes(b"not an image")
    result = doctor("--server_address", f"127.0.0.1:{port}", "--data_dir", tmp_path / "photos")
    assert result.exit_code == 0
    assert "\nwarn  data " in result.stdout
    assert "→ convert such images" in result.stdout
    assert result.stdout.endswith("10 ok, 1 warn\n")


def test_a_failure_is_told_once_and_what_hangs_on_it_is_named(welcomed):
    result = doctor("--server_address", f"127.0.0.1:{closed()}")
    assert result.exit_code == 1
    assert result.stdout.count("\nfail") == 1
    assert "not looked at: TLS, clock, authentication, versions, partition (port failed)\n" in result.stdout
    assert "not looked at: data (give --data_dir FOLDER)\n" in result.stdout


def test_json(welcomed):
    address = f"127.0.0.1:{closed()}"
    result = doctor("--server_address", address, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["server_address"] == address
    assert told["status"] == "fail"
    assert judged(result) == {"name": "ok", "port": "fail", "disk": "ok", "memory": "ok", "GPU": "ok"}
    assert all(set(finding) == {"name", "status", "text", "advice"} for finding in told["findings"])
    assert told["unseen"]["TLS"] == "port failed"
    assert told["unseen"]["data"] == "give --data_dir FOLDER"


def test_a_site_yaml(welcomed, port, tmp_path):
    photos(tmp_path / "photos")
    site = tmp_path / "site.yaml"
    site.write_text(f"server_address: 127.0.0.1:{port}\ndata_dir: {tmp_path / 'photos'}\nallow: {{min_images: 31}}\n")
    result = doctor("--config", site, "--json")
    assert judged(result)["data"] == "fail"
    assert judged(doctor("--config", site, "allow.min_images=30", "--json"))["data"] == "ok"


def test_a_servers_machine(welcomed, port, tmp_path):
    create(tmp_path / "certs", ["localhost"], ["client1"], 100)
    result = doctor("--server", "--server_address", f"localhost:{port}", "--certs", tmp_path / "certs", "--json")
    assert result.exit_code == 0, result.output
    assert list(judged(result)) == [check.name for check in SERVER]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--server_address", "nowhere"], "must be host:port"),
        (["--partition_id", "-1"], "partition_id"),
        (["bogus=1"], "bogus"),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_mistakes_are_one_line(arguments, words):
    result = doctor(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # a library of Flower's
def test_a_real_server(tmp_path, monkeypatch):
    certs = tmp_path / "certs"
    create(certs, ["localhost"], ["client1", "client2", "client3"], 100)
    create(tmp_path / "other", ["localhost"], ["client1"], 100)
    stranger = shutil.copytree(certs / "clients/client1", tmp_path / "stranger")
    shutil.copy(tmp_path / "other/clients/client1/client.key", stranger)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    with federation(tmp_path / "run", clients=3) as world:
        ask = ("--server_address", f"localhost:{world.port}", "--json")
        before = doctor(*ask, "--certs", certs / "clients/client1")
        assert judged(before)["port"] == "fail"  # no server yet

        server = world.server(f"server.certs={certs}", "federated.min_fit_clients=3")
        server.wait_for("waiting for clients: 0 of 3")
        world.client(2, "--certs", str(certs / "clients/client2"))
        server.wait_for("client2 is here")

        well = doctor(*ask, "--certs", certs / "clients/client1", "--data_dir", world.data / "client1")
        assert set(judged(well)) == {check.name for check in CLIENT}
        assert set(judged(well).values()) == {"ok"}, well.stdout
        assert well.exit_code == 0
        assert told(well, "partition") == "0 is free; taken: 1"

        double = doctor(*ask, "--certs", certs / "clients/client3", "name=client3", "--partition_id", 1)
        assert double.exit_code == 1
        assert "1 is taken by another client" in told(double, "partition")

        unknown = doctor(*ask, "--certs", stranger)
        assert judged(unknown)["authentication"] == "fail"
        assert "does not know it" in told(unknown, "authentication")

        fast = "flwr.client.grpc_rere_client.node_auth_client_interceptor.now"
        with monkeypatch.context() as patch:
            from flwr.supercore.date import now

            patch.setattr(fast, lambda: now() + timedelta(minutes=2))
            ahead = doctor(*ask, "--certs", certs / "clients/client1")
        assert judged(ahead)["clock"] == "fail"

        world.client(1, "--certs", str(certs / "clients/client1"))  # with the keys that the doctor has used
        world.client(3, "--certs", str(certs / "clients/client3"))
        server.wait_for("client1 is here")
        server.wait_for("client3 is here")
        server.wait_for(r"\b1/6\b")
        assert "stays out" not in server.said
