"""Checks of reaching the server: its name, its port, TLS."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import ip_address

from fedlens.diagnose.network import CONNECT_SECONDS, Target, curious, trusting
from fedlens.diagnose.subject import Subject
from fedlens.diagnose.verdict import Verdict, fail, failed, ok, warn
from fedlens.errors import ConfigError
from fedlens.flower.addresses import LOOPBACK
from fedlens.flower.key_files import Certificate
from fedlens.flower.proxy import place_of

SOON_DAYS = 30
_MOST_SHOWN = 4
_NETWORK = "check this machine's network"
_THERE = "on the server's machine, "

# OpenSSL's X509_V_ERR_… numbers for certificate errors.
_NOT_YET, _ENDED, _OTHER_NAME = (9,), (10,), (62, 64)


def name(subject: Subject) -> Verdict:
    """Check that the server's name resolves to an address."""
    target, proxy = subject.target, subject.target.proxy
    host = proxy.hostname or "" if proxy else target.host
    role = f"the proxy {host}" if proxy else host
    if _is_address(host):
        return ok(f"{role} is an address: there is no name to look up")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        advice = "check how --server_address is spelt"
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
            advice = f"no name server answered: {_NETWORK}"
        return fail(f"{role} has no address: {error.strerror}", f"{advice}, or give the server's address in numbers")
    return ok(f"{role} is {_listed(list(dict.fromkeys(str(place[0]) for *_, place in found)))}")


def port(subject: Subject) -> Verdict:
    """Check that the port accepts connections."""
    target, proxy = subject.target, subject.target.proxy
    through = f" through the proxy {place_of(proxy)}" if proxy else ""
    began = time.perf_counter()
    try:
        target.connect().close()
    except ConnectionRefusedError:
        return _refused(target, through)
    except TimeoutError:
        return fail(
            f"{target}{through} is silent: no answer within {CONNECT_SECONDS:g} s, as behind a firewall",
            f"have the firewalls on the way let TCP port {target.port} through; or correct --server_address",
        )
    except OSError as error:
        advice = f"have the proxy let it pass, or add {target.host} to no_proxy" if proxy else _NETWORK
        return fail(f"{target}{through} cannot be reached: {error.strerror or error}", advice)
    return ok(f"{target}{through} takes connections, after {1000 * (time.perf_counter() - began):.0f} ms")


def _refused(target: Target, through: str) -> Verdict:
    if through:
        advice = f"correct grpc_proxy or https_proxy, or add {target.host} to no_proxy"
        return fail(f"{target}{through} cannot be reached: the proxy refuses", advice)
    return fail(
        f"{target} refuses: the machine is there, and nothing listens on that port",
        "start `fedlens server` there, which listens while its run goes on; or correct the port",
    )


def tls(subject: Subject) -> Verdict:
    """Check the server's identity with TLS."""
    try:
        held = subject.credentials
    except ConfigError as error:
        return failed(error, "take the site's folder as fedlens certs made it")
    if held is None:
        return _without(subject)
    target = subject.target
    try:
        der = target.certificate(trusting(held.root_certificates))
    except ssl.SSLCertVerificationError as error:
        return _distrusted(target, error, _certificate(target.certificate(curious())))
    except OSError as error:
        return fail(
            f"{target} takes connections, but does not speak TLS ({_reason(error)})",
            "start the server with --certs; or another program has that port",
        )
    shown = _certificate(der)
    return dated(shown, f"trusted, for {_listed(shown.hosts)}", _THERE)


def dated(certificate: Certificate, text: str, where: str = "") -> Verdict:
    """`text`, with the remaining validity of the certificate."""
    left = (certificate.ends - datetime.now(UTC)).days
    text = f"{text}; ends on {certificate.ends:%Y-%m-%d}, in {left} day{'s' * (left != 1)}"
    return warn(text, _renew(where)) if left < SOON_DAYS else ok(text)


def _without(subject: Subject) -> Verdict:
    """The result without certificates."""
    target = subject.target
    if _speaks_tls(target):
        return fail(
            f"{target} speaks TLS, and there are no certificates here",
            "give --certs FOLDER, which the server's administrator made for this site",
        )
    if subject.here:
        return ok("none, which is enough within one machine")
    advice = "on the server's machine, fedlens certs create; then --certs on both sides"
    if subject.site.insecure:
        return warn("none: whoever is on the way can read the model, and change it", advice)
    return fail("none: a client joins another machine only with --certs, or with --insecure", advice)


def _speaks_tls(target: Target) -> bool:
    try:
        target.certificate(curious())
    except OSError:
        return False
    return True


def _distrusted(target: Target, error: ssl.SSLCertVerificationError, shown: Certificate) -> Verdict:
    if error.verify_code in _ENDED:
        return fail(f"the server's certificate ended on {shown.ends:%Y-%m-%d}", _renew(_THERE))
    if error.verify_code in _NOT_YET:
        return fail(
            f"the server's certificate begins on {shown.begins:%Y-%m-%d %H:%M} UTC, and here it is "
            f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            "set this machine's clock",
        )
    if error.verify_code in _OTHER_NAME:
        hosts = (*(host for host in shown.hosts if host not in LOOPBACK), target.host)
        return fail(
            f"the server's certificate is for {_listed(shown.hosts)}, not for {target.host}",
            f"give one of these names as --server_address; or {_renew(_THERE, hosts)}",
        )
    return fail(
        f"the server's certificate is not signed by this site's ca.crt ({error.verify_message})",
        "take the site's folder as it is on the server now; if that does not help, somebody stands between",
    )


def _renew(where: str, hosts: Sequence[str] = ()) -> str:
    names = f" --hosts {','.join(hosts)}" if hosts else ""
    return f"{where}fedlens certs renew --out FOLDER{names}; then start the server again"


def _certificate(der: bytes) -> Certificate:
    from cryptography.x509 import load_der_x509_certificate

    return Certificate.of(load_der_x509_certificate(der))


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return "silence" if isinstance(error, TimeoutError) else error.strerror or str(error)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
