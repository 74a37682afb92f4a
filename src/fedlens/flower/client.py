"""A site's resident client: it joins a server, stays connected, and does the tasks that the site's rules allow.

This process holds the connection and does not compute; a worker process holds the model, the images and the GPU. So
heartbeats continue while the worker trains, and a worker that dies is one failed task.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from fedlens.errors import ConnectionFailed, ProtocolError
from fedlens.flower.internals.fleet import FleetLink, HungUp, Keys, NotActivated, Refused
from fedlens.flower.internals.parts import Incoming
from fedlens.flower.journal import Journal, Outbox
from fedlens.flower.message_handler import Done, Goodbye, refusal_reply
from fedlens.flower.messages import Refusal
from fedlens.flower.proxy import place_of, proxy_for
from fedlens.flower.pulse import Pulse
from fedlens.flower.site_state import forget_stages
from fedlens.flower.worker import MakeSite, Watcher, Worker

POLL_SECONDS = 0.05
IDLE_POLL_SECONDS = 1.0
IDLE_AFTER_SECONDS = 30
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)
ACTIVATION_SECONDS = 45
"""A server forgets a dead connection after 20 s; one that refuses for longer does not know the key."""

_UNKNOWN_KEY = "it does not know this client's key, or has revoked it, or another client is there with the same key"


@dataclass(frozen=True)
class Place:
    """The server's address and the credentials. `root_certificates` None: no TLS; `keys` None: no authentication."""

    address: str
    root_certificates: bytes | None = None
    keys: Keys | None = None

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")


@dataclass(frozen=True)
class Terms:
    """The client's own limits. `limit`: bytes of the largest message; `bundle`: hash of the only code that is accepted
    for a run; `stay`: wait for the next run when one has ended."""

    limit: int
    bundle: str
    stay: bool


class RunEnded(Exception):
    """The server said that the run is over."""


class ResidentClient:
    """One site. `folder` holds its journal, its outbox, its sign of life, and what it keeps of runs."""

    def __init__(self, place: Place, terms: Terms, make_site: MakeSite, folder: Path, watcher: Watcher) -> None:
        self._place = place
        self._terms = terms
        self._watcher = watcher
        self._folder = folder
        self._pulse = Pulse(folder)
        self._worker = Worker(make_site, watcher, self._pulse.beat)
        self._journal = Journal(folder / "journal")
        self._outbox = Outbox(folder / "outbox.jsonl")
        self._known: set[int] = set()
        self._node = 0

    def run(self) -> None:
        """Serve until the run is over, or for ever with `stay`.

        Raises:
            ConnectionFailed: the server refuses this client.
            FedLensError: the site cannot work (its images, say).
        """
        try:
            while True:
                try:
                    self._visit()
                except RunEnded as ended:
                    forget_stages(self._folder)
                    self._watcher.note(f"the run is over: {ended}" if str(ended) else "the server has ended the run")
                    if not self._terms.stay:
                        return
        finally:
            self._worker.close()
            self._pulse.stop()
            forget_stages(self._folder)

    def _visit(self) -> None:
        """Serve over one connection, from joining until it is lost."""
        link = self._joined()
        leave = True
        try:
            for incoming, parts in self._journal.open(self._node):
                self._watcher.note("doing again a task that was cut off")
                self._work(link, incoming, parts)
            self._listen(link)
        except ConnectionFailed as error:
            leave = False
            if isinstance(error, Refused):
                raise _refused(self._place, error) from error
            self._watcher.note(f"the connection to {self._place.address} was lost ({error}); joining again")
        finally:
            link.close(leave=leave)

    def _joined(self) -> FleetLink:
        said, tries, began = "", 0, time.monotonic()
        if proxy := proxy_for(self._place.host):
            self._watcher.note(f"the way to {self._place.address} is through the proxy {place_of(proxy)}")
        while True:
            place = self._place
            link = FleetLink(place.address, place.root_certificates, place.keys, self._pulse.beat)
            try:
                self._node = link.join()
            except Refused as error:
                link.close(leave=False)
                raise _refused(self._place, error) from error
            except ConnectionFailed as error:
                link.close(leave=False)
                if isinstance(error, NotActivated):
                    if time.monotonic() - began > ACTIVATION_SECONDS:
                        raise _refused(self._place, error, _UNKNOWN_KEY) from error
                    text = "the server does not let this client in yet; it may still count the last connection"
                else:
                    text = _unreached(self._place, error)
                    began = time.monotonic()
                if text != said:
                    self._watcher.note(f"{text}; trying on")
                    said = text
                time.sleep(RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)])
                tries += 1
                continue
            self._watcher.note(f"joined {self._place.address}")
            return link

    def _listen(self, link: FleetLink) -> None:
        heard = time.monotonic()
        while not link.lost.is_set():
            incoming = link.receive()
            if incoming is None:
                idle = time.monotonic() - heard > IDLE_AFTER_SECONDS
                time.sleep(IDLE_POLL_SECONDS if idle else POLL_SECONDS)
                continue
            self._accept(link, incoming)
            heard = time.monotonic()
        raise ConnectionFailed("the server does not know this client any more")

    def _accept(self, link: FleetLink, incoming: Incoming) -> None:
        """Fetch a message, record it in the journal, confirm it, and do its work."""
        self._check_code(link, incoming)
        try:
            parts = link.fetch(incoming, self._terms.limit)
        except ProtocolError as error:
            parts = {}
            link.confirm(incoming)
            too_large = Refusal(f"{error}, which is more than this site takes (allow.max_message_mb in its site.yaml)")
            self._deliver(link, Done(refusal_reply(incoming, too_large), "", "refusal", str(error)), parts)
            return
        self._journal.keep(incoming, parts, self._node)
        link.confirm(incoming)
        self._work(link, incoming, parts)

    def _check_code(self, link: FleetLink, incoming: Incoming) -> None:
        """Raises Refused: the run was submitted with other code than this FedLens'."""
        if incoming.run_id in self._known:
            return
        submitted = link.bundle_hash(incoming.run_id)
        if submitted != self._terms.bundle:
            raise Refused(
                f"the run's bundle is {submitted[:12]}…, and this FedLens accepts {self._terms.bundle[:12]}… only: "
                "install the same version of FedLens on both sides"
            )
        self._known.add(incoming.run_id)

    def _work(self, link: FleetLink, incoming: Incoming, parts: dict[str, bytes]) -> None:
        done = self._worker.do(incoming, parts)
        if isinstance(done, Goodbye):
            self._journal.drop(incoming)
            raise Refused(done.text) if done.kind == "refuse" else RunEnded(done.text)
        self._deliver(link, done, parts)
        self._journal.drop(incoming)

    def _deliver(self, link: FleetLink, done: Done, parts: dict[str, bytes]) -> None:
        size = self._outbox.record(to=self._place.address, run=done.run, what=done.what, parts=done.reply.parts)
        link.send(done.reply)
        if done.text:
            received = sum(map(len, parts.values())) / 1e6
            self._watcher.note(f"{done.text}; received {received:.2f} MB, sent {size / 1e6:.2f} MB")


def _unreached(place: Place, error: Exception) -> str:
    if isinstance(error, HungUp) and place.root_certificates is None:
        return f"{place.address} hangs up; a server that has certificates does so to a client without --certs"
    proxy = proxy_for(place.host)
    through = f" through the proxy {place_of(proxy)}, which may not let it pass" if proxy else ""
    return f"no server answers at {place.address} yet{through}"


def _refused(place: Place, error: Exception, reason: str = "") -> ConnectionFailed:
    return ConnectionFailed(f"{place.address} and this client cannot work together: {reason or error}")
