"""host:port: what is one, and why something is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.problems import refuses_with

from fedlens.errors import ConfigError
from fedlens.flower.addresses import joined, parted


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        (" server.example.org:1 ", "server.example.org", 1),
        ("server.example.org.:65535", "server.example.org.", 65535),
        ("fedlens_server-1:8080", "fedlens_server-1", 8080),  # as container networks name them
        ("[::1]:8080", "::1", 8080),
        ("[2001:DB8::0:7]:8080", "2001:db8::7", 8080),
        ("[fe80::1%eth0]:8080", "fe80::1%eth0", 8080),
        ("[::]:8080", "::", 8080),
        ("klinik-köln.example:8080", "xn--klinik-kln-lcb.example", 8080),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parted(text, "server_address") == (host, port)
    assert parted(joined(host, port), "server_address") == (host, port)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("http://host:8080", "must be host:port without http://, such as host:8080"),
        ("https://host:8080/", "must be host:port without https://, such as host:8080"),
        ("grpc://host", "must be host:port without grpc://, such as server.example.org:8080"),
        ("a b:80", "'a b' is no host's name: it has letters, digits, hyphens and dots"),
        ("256.1.1.1:80", "'256.1.1.1' is no IPv4 address (Octet 256 (> 255) not permitted in '256.1.1.1')"),
        ("1.2.3:80", "'1.2.3' is no IPv4 address (Expected 4 octets in '1.2.3')"),
        ("::1:8080", "an IPv6 address stands in brackets, such as [::1]:8080"),
        ("[::1:8080", "an IPv6 address stands in brackets, such as [::1]:8080"),
        ("[host]:80", "'host' is no IPv6 address (At least 3 parts expected in 'host')"),
        ("[1.2.3.4]:80", "'1.2.3.4' is no IPv6 address"),
        ("host", "must be host:port, such as 127.0.0.1:8080"),
        ("host:", "must be host:port, such as 127.0.0.1:8080"),
        (":8080", "must be host:port, such as 127.0.0.1:8080"),
        ("host:http", "must be host:port, such as 127.0.0.1:8080"),
        ("host:８０", "must be host:port, such as 127.0.0.1:8080"),
        ("host:0", "port 0 is not between 1 and 65535"),
        ("host:65536", "port 65536 is not between 1 and 65535"),
        ("host:" + "9" * 5000, "port 99999999999999999999 is not between 1 and 65535"),
        ("-host:80", "'-host' is no host's name"),
        ("a..b:80", "'a..b' is no host's name"),
        ("*:80", "'*' is no host's name"),
        ("unix:/run/x:80", "an IPv6 address stands in brackets"),
        ("x" * 64 + ":80", "is no host's name"),
    ],
)
def test_what_is_no_address(text: str, line: str) -> None:
    with refuses_with("invalid_value", f"server_address = {text!r}: ") as caught:
        parted(text, "server_address")
    assert line in str(caught.value)


@pytest.mark.fuzz
@given(st.text(max_size=20) | st.from_regex(r"[\[\]:.%a-f0-9 /]{0,20}:[0-9]{1,6}", fullmatch=True))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        host, port = parted(text, "server_address")
    except ConfigError:
        return
    assert parted(joined(host, port), "server_address") == (host, port)
