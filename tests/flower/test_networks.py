"""Server and clients with a bad line between them that breaks for half a minute, and with a proxy between them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.flower.networks import POSSIBLE, Line, Proxy
from tests.flower.processes import TOLERANCE, difference, federation, locally

pytestmark = pytest.mark.slow

CUT_SECONDS = 30


@pytest.mark.skipif(not POSSIBLE, reason="network namespaces need root, and a line between them /dev/net/tun")
def test_a_bad_line_and_a_cut_change_nothing(tmp_path: Path) -> None:
    """The cut outlasts the 20 s after which a server counts a client as gone."""
    with federation(tmp_path) as place, Line(delay=0.1, loss=0.01) as line:
        expected = locally(place.data, tmp_path / "local")
        certs = place.certificates(2, hosts=line.SERVER)
        server = place.server(
            "--certs", str(certs), f"server.address={line.SERVER}:{place.port}", within=line.server_side
        )
        keys = [str(certs / "clients" / f"client{number}") for number in (1, 2)]
        clients = [
            place.client(number, "--certs", key, address=f"{line.SERVER}:{place.port}", within=line.client_side)
            for number, key in enumerate(keys, 1)
        ]
        server.round(2)
        trainer = clients[0].stopped_at_work()
        with line.cut():
            trainer.resume()
            time.sleep(CUT_SECONDS)
        assert server.ends() == 0, server.said
        assert [client.ends() for client in clients] == [0, 0]
        assert line.dropped > line.packets * 0.005
        assert [line["failures"] for line in server.lines] == [[]] * 6
        assert difference(server.model, expected) < TOLERANCE


def test_clients_come_through_a_proxy(tmp_path: Path) -> None:
    with federation(tmp_path) as place, Proxy() as proxy:
        certs = place.certificates(2, hosts="server.example.org")
        server = place.server("--certs", str(certs), "federated.num_rounds=2")
        for number in (1, 2):
            key = str(certs / "clients" / f"client{number}")
            address = f"server.example.org:{place.port}"
            place.client(number, "--certs", key, address=address, within=("env", f"https_proxy={proxy.url}"))
        assert server.ends() == 0, server.said
        assert [line["failures"] for line in server.lines] == [[], []]
        moved = sum(line["bytes_down"] + line["bytes_up"] for line in server.lines)
        assert proxy.carried > moved
