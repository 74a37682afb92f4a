"""Which connections go through a proxy."""

import pytest

from fedlens.flower.proxy import is_loopback, place_of, proxy_for


@pytest.mark.parametrize(
    ("host", "here"),
    [
        *((host, True) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST")),
        *((host, False) for host in ("192.0.2.7", "::2", "localhost.example.org", "server.example.org", "")),
    ],
)
def test_this_machine_is_never_behind_a_proxy(host: str, here: bool, monkeypatch) -> None:
    for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://user:secret@proxy.example.org:3128")
    assert is_loopback(host) is here
    proxy = proxy_for(host)
    assert (proxy is None) is here
    assert proxy is None or place_of(proxy) == "proxy.example.org:3128"
