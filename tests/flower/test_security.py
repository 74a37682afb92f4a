"""Who gets in, on real processes: wrong keys, wrong certificates and noise, beside a federation that goes on.

All strangers knock at once, for the server refuses an unknown key for 45 s before a client gives up.
"""

from __future__ import annotations

import secrets
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc
import psutil
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.flower.processes import Client, Federation, Server, command, federation, free_port
from typer.testing import CliRunner

from fedlens.cli.main import app
from fedlens.flower import certificates, key_files, signing

pytestmark = pytest.mark.slow

ENDLESS = ("federated.num_rounds=100000", "federated.min_fit_clients=1", "server.rejoin_seconds=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Federation]:
    with federation(tmp_path_factory.mktemp("security"), clients=5) as made:
        made.certificates(4)
        yield made


@pytest.fixture(scope="module")
def server(place: Federation) -> Server:
    """With certificates, and client1, which nothing of all this must disturb."""
    server = place.server("--certs", str(place.base / "certs"), *ENDLESS, f"server.address=0.0.0.0:{place.port}")
    join(place, 1)
    server.round(1)
    return server


@pytest.fixture(scope="module")
def certs(place: Federation) -> Path:
    return place.base / "certs"


@pytest.fixture(scope="module")
def expired(certs: Path) -> Path:
    """The server's folder as it is a month after its certificate's last day."""
    folder = certs.with_name("expired")
    shutil.copytree(certs, folder)
    key = load_pem_private_key((certs / certificates.AUTHORITY_KEY).read_bytes(), None)
    authority = signing.Authority(key_files.read_certificate(certs / certificates.AUTHORITY), key)
    own = load_pem_private_key((certs / certificates.SERVER_KEY).read_bytes(), None).public_key()
    with pytest.MonkeyPatch.context() as patch:
        then = signing.now() - timedelta(days=60)
        patch.setattr(signing, "now", lambda: then)
        certificate = authority.server_certificate(own, ["localhost"], 30)
    (folder / certificates.SERVER).write_bytes(signing.certificate_text(certificate))
    return folder


@pytest.fixture(scope="module")
def strangers(place: Federation, server: Server, certs: Path, expired: Path) -> Iterator[dict[str, Client]]:
    """Clients that do not get in, by what is wrong with them."""
    copy, half, other = certs.with_name("copy"), certs.with_name("half"), place.certificates(4, "other")
    shutil.copytree(certs, copy)
    command("certs", "add", "--names", "client5", "--out", str(copy))
    shutil.copytree(certs / "clients/client4", half, ignore=shutil.ignore_patterns("ca.crt"))
    with listening(expired) as late, listening(None) as plain:
        yield {
            "a key that is not registered": join(place, 5, copy),
            "another client's key": place.client(3, "--certs", str(certs / "clients/client4")),
            "another authority": join(place, 4, other),
            "no authority": place.client(4, "--certs", str(half)),
            "a server of another name": join(place, 4, certs, f"127.0.0.2:{place.port}"),
            "a server whose certificate has expired": join(place, 4, certs, late),
            "a server without TLS": join(place, 4, certs, plain),
        }


REFUSALS = {
    "a key that is not registered": (1, "it does not know this client's key, or has revoked it"),
    "another client's key": (
        1,
        "its key is client4's, and it is client3 (partition_id = 2): start it with the name or partition_id of its key",
    ),
    "another authority": (1, "the server's certificate is not by the authority in ca.crt; take the folder that"),
    "no authority": (2, "half/ca.crt: "),
    "a server of another name": (1, "the server's certificate does not name this address; give one that it names"),
    "a server whose certificate has expired": (1, "the server's certificate has expired; its administrator makes"),
    "a server without TLS": (1, "the server does not speak TLS; it was started without --certs"),
}


def join(place: Federation, number: int, folder: Path | None = None, address: str | None = None) -> Client:
    """A client with a state of its own and its own key in `folder`."""
    folder = folder or place.base / "certs"
    state = place.base / f"state{number}-{folder.name}-{(address or '').replace(':', '-')}"
    return place.client(number, "--certs", str(folder / f"clients/client{number}"), state=state, address=address)


class listening:  # noqa: N801 - a context, in small letters as all are
    """A gRPC server without any service; gives its address. `folder`: with these certificates, else without TLS."""

    def __init__(self, folder: Path | None) -> None:
        self._server = grpc.server(ThreadPoolExecutor(1))
        if folder is None:
            self._port = self._server.add_insecure_port("127.0.0.1:0")
            return
        pair = ((folder / certificates.SERVER_KEY).read_bytes(), (folder / certificates.SERVER).read_bytes())
        self._port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))

    def __enter__(self) -> str:
        self._server.start()
        return f"127.0.0.1:{self._port}"

    def __exit__(self, *_) -> None:
        self._server.stop(None)


def assert_goes_on(server: Server) -> None:
    assert server.running, server.said
    server.round(len(server.lines) + 2)
    assert server.lines[-1]["cohort"][0]["client"] == "client1"


def listens(process: psutil.Process) -> set[tuple[str, int]]:
    found = process.net_connections("inet")
    return {tuple(connection.laddr) for connection in found if connection.status == psutil.CONN_LISTEN}


def test_a_revoked_client_is_shut_out_while_the_server_runs(place, server, certs, strangers) -> None:
    second = join(place, 2)
    server.wait_for("client2 is here")
    command("certs", "revoke", "client2", "--out", str(certs))
    server.wait_for("client2 has gone")
    assert second.ends() == 1
    assert "it does not know this client's key, or has revoked it" in second.said
    assert "Traceback" not in second.said
    assert_goes_on(server)


@pytest.mark.parametrize("what", REFUSALS)
def test_strangers_stay_out_and_are_told_why(server, strangers, what: str) -> None:
    status, words = REFUSALS[what]
    client = strangers[what]
    assert client.ends() == status
    *before, last = client.said.strip().splitlines()
    assert words in last
    assert not [line for line in before if not line.startswith("note: ")]
    assert_goes_on(server)


def test_a_client_without_certificates_is_told_of_them(place, server) -> None:
    """It tries on: a way through which no server can be reached just now looks the same."""
    client = place.client(4, state=place.base / "bare")
    client.wait_for("hangs up; a server that has certificates does so to a client without --certs; trying on")
    client.end()
    assert_goes_on(server)


def test_a_killed_client_comes_back_with_its_key(place, server) -> None:
    """Flower counts its old connection for 20 s, and does not let the new one in as long."""
    join(place, 3).kill()
    first = join(place, 3)
    server.wait_for("client3 is here")
    first.end()
    second = join(place, 3)
    server.wait_for("client3 is back")
    assert "the server does not let this client in yet; it may still count the last connection" in second.said
    second.end()


@pytest.mark.parametrize("noise", ["random", "HTTP", "TLS", "nothing"])
def test_noise_on_its_ports_does_not_disturb_the_server(place, server, noise: str) -> None:
    said = {
        "random": secrets.token_bytes(1_000_000),
        "HTTP": b"POST /flwr.proto.Fleet/PullMessages HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + bytes(10_000),
        "TLS": b"\x16\x03\x01\xff\xff" + secrets.token_bytes(70_000),
        "nothing": b"",
    }[noise]
    ports = {port for _, port in listens(server.superlink)}
    assert place.port in ports
    for port in ports:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            try:
                connection.sendall(said)
            except ConnectionError:  # it has heard enough
                continue
            assert_goes_on(server)


def test_without_certificates_only_this_machine_is_served(tmp_path: Path) -> None:
    with federation(tmp_path) as place:
        server = place.server(f"server.address=0.0.0.0:{place.port}", *ENDLESS)
        server.wait_for(f"listening on 127.0.0.1:{place.port};")
        hosts = {host.removeprefix("::ffff:") for host, _ in listens(server.superlink)}
        assert hosts == {"127.0.0.1"}


@pytest.mark.parametrize("side", ["server", "client"])
def test_another_machine_without_certificates_is_refused_with_the_way_out(side: str, tmp_path: Path) -> None:
    address = f"192.0.2.1:{free_port()}"  # a network of documentation only
    own = [f"tracking.dir={tmp_path}"] if side == "server" else ["--data_dir", str(tmp_path), f"state_dir={tmp_path}"]
    done = CliRunner().invoke(app, [side, "--server_address", address, *own])
    assert done.exit_code == 2
    for words in (f"= '{address}'", "fedlens certs create", "--certs", "--insecure"):
        assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_server_does_not_start_with_a_certificate_that_has_expired(expired: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["server", "--certs", str(expired), f"tracking.dir={tmp_path}"])
    assert done.exit_code == 2
    assert f"renew it: fedlens certs renew --out {expired}" in done.stderr
