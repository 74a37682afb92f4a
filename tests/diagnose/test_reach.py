"""The way to a server: names, ports, proxies, and TLS against certificates of every kind."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from fedlens.config.site import SiteConfig
from fedlens.diagnose import at_server, network, reach
from fedlens.diagnose.subject import Subject
from fedlens.flower import proxy as proxies
from fedlens.flower import signing
from fedlens.flower.certificates import ServerCredentials, create, renew

HOSTS = ("localhost", "server.example.org")
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(autouse=True)
def no_proxy_and_little_patience(monkeypatch):
    for name in (*proxies._PROXIES, *proxies._NO_PROXY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(network, "CONNECT_SECONDS", 0.5)


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    """Never changed by a test."""
    return made_at(NOW, tmp_path_factory.mktemp("made") / "certs", 825)


def made_at(moment, folder, days=10, hosts=HOSTS):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "now", lambda: moment)
        create(folder, hosts, ["client1"], days)
    return folder


def subject(port, certs=None, host="127.0.0.1", **changes):
    site = certs and certs / "clients" / "client1"
    return Subject(SiteConfig(server_address=f"{host}:{port}", data_dir=".", certs=site, **changes))


@contextmanager
def answering(serve, host="127.0.0.1"):
    """A port, and a thread that calls `serve` with every connection to it."""
    with socket.create_server((host, 0)) as listening:

        def loop():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:  # the test is over
                    return
                with connection:
                    try:
                        serve(connection)
                    except OSError:  # the other side refused; what it makes of that is the test's matter
                        continue

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def tls_server(folder, host="127.0.0.1"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server/server.crt", folder / "server/server.key")
    with answering(lambda connection: context.wrap_socket(connection, server_side=True).close(), host) as port:
        yield port


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def test_a_name_is_looked_up(monkeypatch):
    def found(host, *_arguments, **_options):
        assert host == "server.example.org"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    seen = reach.name(subject(8080, host="server.example.org"))
    assert (seen.status, seen.text) == ("ok", "server.example.org is 192.0.2.7")


@pytest.mark.parametrize(
    ("code", "advice"), [(socket.EAI_NONAME, "spelt"), (socket.EAI_AGAIN, "no name server answered")]
)
def test_a_name_that_leads_nowhere(monkeypatch, code, advice):
    def lost(*_arguments, **_options):
        raise socket.gaierror(code, "words of the system's")

    monkeypatch.setattr(socket, "getaddrinfo", lost)
    seen = reach.name(subject(8080, host="server.example.org"))
    assert seen.status == "fail"
    assert "server.example.org has no address: words of the system's" in seen.text
    assert advice in seen.advice


@pytest.mark.parametrize("host", ["192.0.2.7", "[::1]", "0.0.0.0"])
def test_an_address_needs_no_name(host):
    assert reach.name(subject(8080, host=host)).status == "ok"


def test_an_open_port():
    with answering(lambda _connection: None) as port:
        assert reach.port(subject(port)).status == "ok"


def test_a_refusal_is_not_silence():
    seen = reach.port(subject(closed_port()))
    assert seen.status == "fail"
    assert "refuses" in seen.text
    assert "fedlens server" in seen.advice


def test_silence_is_not_a_refusal():
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        for waiting in (first, second):  # Linux drops further ones, as a firewall does
            waiting.setblocking(False)
            waiting.connect_ex(address)
        seen = reach.port(subject(address[1]))
    assert seen.status == "fail"
    assert "silent" in seen.text
    assert "firewall" in seen.advice


@pytest.mark.parametrize(("answer", "status"), [(b"200 OK", "ok"), (b"403 Forbidden", "fail")])
def test_a_proxy_is_asked_where_grpc_would_ask_it(monkeypatch, answer, status):
    heard = []

    def proxy(connection):
        heard.append(connection.recv(1000))
        connection.sendall(b"HTTP/1.1 " + answer + b"\r\n\r\n")

    with answering(proxy) as port:
        monkeypatch.setenv("https_proxy", f"http://site:p%40ss@127.0.0.1:{port}")
        seen = reach.port(subject(8080, host="server.example.org"))
        name = reach.name(subject(8080, host="server.example.org"))
    assert seen.status == status
    assert f"through the proxy 127.0.0.1:{port}" in seen.text
    assert heard[0].startswith(b"CONNECT server.example.org:8080")
    assert b"Basic c2l0ZTpwQHNz" in heard[0]  # base64 of site:p@ss
    assert name.status == "ok"
    assert status == "ok" or ("403" in seen.text and "no_proxy" in seen.advice)


def test_a_proxy_that_refuses(monkeypatch):
    monkeypatch.setenv("grpc_proxy", f"127.0.0.1:{closed_port()}")
    seen = reach.port(subject(8080, host="server.example.org"))
    assert seen.status == "fail"
    assert "the proxy refuses" in seen.text


@pytest.mark.parametrize(
    ("host", "without", "asked"),
    [
        ("server.example.org", "example.org", False),
        ("server.example.org", "other.org, .example.org", False),
        ("server.example.org", "*", True),  # gRPC knows no star
        ("192.0.2.7", "192.0.2.0/24", False),
        ("192.0.3.7", "192.0.2.0/24", True),
        ("server.example.org", "", True),
    ],
)
def test_exceptions_from_the_proxy(monkeypatch, host, without, asked):
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    monkeypatch.setenv("no_proxy", without)
    assert (network.Target(host, 8080).proxy is not None) == asked


def test_certificates_in_order(certs):
    with tls_server(certs) as port:
        seen = reach.tls(subject(port, certs, "localhost"))
    assert seen.status == "ok"
    assert "localhost, server.example.org" in seen.text
    assert f"{NOW + timedelta(days=825):%Y-%m-%d}, in 824 days" in seen.text


def test_a_certificate_that_ends_soon(tmp_path):
    folder = made_at(NOW, tmp_path / "certs", days=10)
    with tls_server(folder) as port:
        seen = reach.tls(subject(port, folder))
    assert seen.status == "warn"
    assert "in 9 days" in seen.text
    assert "fedlens certs renew" in seen.advice


def test_a_certificate_that_has_ended(tmp_path):
    folder = made_at(NOW - timedelta(days=20), tmp_path / "certs", days=10)
    with tls_server(folder) as port:
        seen = reach.tls(subject(port, folder))
    assert seen.status == "fail"
    assert f"ended on {NOW - timedelta(days=10):%Y-%m-%d}" in seen.text
    assert "fedlens certs renew" in seen.advice


def test_a_certificate_that_has_not_begun(certs, tmp_path):
    """The authority's is valid, so the clocks of both sides agree with it."""
    folder = shutil.copytree(certs, tmp_path / "certs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "now", lambda: NOW + timedelta(days=3))
        renew(folder, (), 10)
    with tls_server(folder) as port:
        seen = reach.tls(subject(port, folder))
    assert seen.status == "fail"
    assert "begins on" in seen.text
    assert "clock" in seen.advice


def test_a_certificate_of_another_name(certs):
    with tls_server(certs, "127.0.0.2") as port:
        seen = reach.tls(subject(port, certs, "127.0.0.2"))
    assert seen.status == "fail"
    assert "is for localhost, server.example.org" in seen.text
    assert "not for 127.0.0.2" in seen.text
    assert "--hosts server.example.org,127.0.0.2" in seen.advice


def test_another_authority(certs, tmp_path):
    other = made_at(NOW, tmp_path / "other")
    with tls_server(other) as port:
        seen = reach.tls(subject(port, certs))
    assert seen.status == "fail"
    assert "not signed by this site's ca.crt" in seen.text


def test_a_port_without_tls(certs):
    def garbage(connection):
        connection.recv(1000)
        connection.sendall(b"\x00 what?\r\n" * 20)

    with answering(garbage) as port:
        seen = reach.tls(subject(port, certs))
    assert seen.status == "fail"
    assert "does not speak TLS" in seen.text


def test_tls_where_the_site_has_no_certificates(certs):
    with tls_server(certs) as port:
        seen = reach.tls(subject(port))
    assert seen.status == "fail"
    assert "--certs" in seen.advice


@pytest.mark.parametrize(
    ("host", "insecure", "status"),
    [("127.0.0.1", False, "ok"), ("192.0.2.7", True, "warn"), ("192.0.2.7", False, "fail")],
)
def test_no_certificates_at_all(monkeypatch, host, insecure, status):
    monkeypatch.setattr(reach, "_speaks_tls", lambda _target: False)
    assert reach.tls(subject(8080, host=host, insecure=insecure)).status == status


def test_a_folder_that_lacks_a_file_is_told_with_the_way_out(certs, tmp_path):
    folder = shutil.copytree(certs, tmp_path / "certs")
    (folder / "clients/client1/client.key").unlink()
    seen = reach.tls(subject(8080, folder))
    assert seen.status == "fail"
    assert seen.text.endswith("client.key: is missing")
    assert seen.advice == "take the folder as fedlens certs made it"


def at(folder, address):
    return Subject(SiteConfig(server_address=address, data_dir=".", certs=folder), serves=True)


def test_a_servers_own_port():
    assert "is free" in at_server.own_port(at(None, f"127.0.0.1:{closed_port()}")).text
    with answering(lambda _connection: None) as port:
        seen = at_server.own_port(at(None, f"127.0.0.1:{port}"))
    assert seen.status == "ok"
    assert "a program listens" in seen.text


def test_a_servers_own_certificates(certs, tmp_path):
    seen = at_server.certificates(at(certs, "server.example.org:8080"))
    assert seen.status == "ok"
    assert "1 clients registered" in seen.text
    other = at_server.certificates(at(certs, "other.example.org:8080"))
    assert other.status == "fail"
    assert "--hosts server.example.org,other.example.org" in other.advice
    assert at_server.certificates(at(certs, "0.0.0.0:8080")).status == "ok"
    assert at_server.certificates(at(tmp_path, "localhost:8080")).status == "fail"
    assert at_server.certificates(at(None, "localhost:8080")).status == "ok"
    assert at_server.certificates(at(None, "server.example.org:8080")).status == "warn"
    assert ServerCredentials.load(certs)  # what the doctor calls good, the server takes
