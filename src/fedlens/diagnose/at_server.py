"""Checks on a server's own machine: a free port, and valid certificates."""

from __future__ import annotations

import socket

from fedlens.diagnose.network import CONNECT_SECONDS
from fedlens.diagnose.reach import dated
from fedlens.diagnose.subject import Subject
from fedlens.diagnose.verdict import Verdict, fail, failed, ok, warn
from fedlens.errors import ConfigError
from fedlens.flower.addresses import EVERY_ADDRESS, LOOPBACK, parted
from fedlens.flower.certificates import ServerCredentials, load_registry
from fedlens.flower.key_files import Certificate


def own_port(subject: Subject) -> Verdict:
    """Check that a server can listen on the port."""
    port = subject.target.port
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        try:
            socket.create_connection(("localhost", port), CONNECT_SECONDS).close()
        except OSError:
            return fail(f"port {port} cannot be used: {error.strerror}", "choose another port in --server_address")
        return ok(f"a program listens on {port}: right, if `fedlens server` runs; else choose another port")
    return ok(f"port {port} is free; a firewall has to let TCP connections to it in")


def certificates(subject: Subject) -> Verdict:
    """Check the server's certificate and its register of clients."""
    folder = subject.site.certs
    host, _ = parted(subject.site.server_address, "server_address")
    if folder is None:
        text = "none: the server takes clients of this machine only"
        advice = f"fedlens certs create --hosts {host} --clients 2 --out ./certs; then --certs ./certs"
        return ok(text) if host in LOOPBACK else warn(text, advice)
    try:
        found = Certificate.read(ServerCredentials.load(folder).certificate)
        clients = load_registry(folder).clients.values()
    except ConfigError as error:
        return failed(error, "take the folder as fedlens certs made it")
    if host not in (*found.hosts, *EVERY_ADDRESS):
        others = [name for name in found.hosts if name not in LOOPBACK]
        return fail(
            f"the certificate is for {', '.join(found.hosts)}, not for {host}",
            f"fedlens certs renew --out {folder} --hosts {','.join([*others, host])}",
        )
    revoked = sum(client.revoked is not None for client in clients)
    register = f"{len(clients)} clients registered" + (f", {revoked} of them revoked" if revoked else "")
    return dated(found, f"for {', '.join(found.hosts)}; {register}")
