"""A short visit to a server: the doctor joins like a client, receives one message, and leaves."""

from __future__ import annotations

import time
from importlib.metadata import version

from flwr.app import ConfigRecord, Message

from fedlens.core import clean
from fedlens.diagnose.outcome import HEAR_SECONDS, Barred, Joined, Outcome, Welcome
from fedlens.errors import ConnectionFailed, ProtocolError
from fedlens.flower.bundle import bundle
from fedlens.flower.internals.fleet import FleetLink, Keys, NotActivated, WrongClock
from fedlens.flower.internals.parts import Incoming, envelope_of, message_of, taken_apart
from fedlens.flower.messages import HEAD, LONGEST_VERSION, Refusal, Reply, Visit, reply

POLL_SECONDS = 0.05
MESSAGE_BYTES = 1_000_000


def visit(address: str, root_certificates: bytes | None, keys: Keys | None) -> Outcome:
    """Join, receive the server's message, and leave without traces."""
    link = FleetLink(address, root_certificates, keys)
    try:
        link.join()
        return _hear(link)
    except NotActivated as error:
        return Barred("key", str(error))
    except ConnectionFailed as error:
        return Barred("clock" if isinstance(error, WrongClock) else "other", str(error))
    except ProtocolError as error:
        return Joined(str(error))
    finally:
        link.withdraw()


def _hear(link: FleetLink) -> Welcome | Joined:
    """The server's description of itself, received with its first query. Messages before it are refused instead of left
    without a reply.

    Raises:
        ConnectionFailed: the connection broke.
        ProtocolError: the message cannot be read.
    """
    until = time.monotonic() + HEAR_SECONDS
    while time.monotonic() < until:
        incoming = link.receive()
        if incoming is None:
            time.sleep(POLL_SECONDS)
            continue
        heard, same_code = time.time(), link.bundle_hash(incoming.run_id) == bundle().hash_str
        head = _head(link, incoming)
        if head is None and not same_code:
            raise ProtocolError("the run at the server is not one of FedLens'")
        if head is not None and head.get("kind") == "describe":
            _reply(link, incoming, Visit())
            return _welcome(head, heard, same_code)
        _reply(link, incoming, Refusal("fedlens doctor was here in the client's place", final=False))
    return Joined()


def _head(link: FleetLink, incoming: Incoming) -> ConfigRecord | None:
    """The header of a query message; None if it is another message or not from FedLens."""
    if envelope_of(incoming).metadata.message_type != "query":
        return None
    return message_of(incoming, link.fetch(incoming, MESSAGE_BYTES)).content.config_records.get(HEAD)


def _reply(link: FleetLink, incoming: Incoming, answer: Reply) -> None:
    """Reply to a message. A received message is not delivered again, and the server would wait for the reply."""
    link.confirm(incoming)
    link.send(taken_apart(Message(reply(answer), reply_to=envelope_of(incoming)), 0.0))


def _welcome(head: ConfigRecord, heard: float, same_code: bool) -> Welcome:
    """`heard`: this machine's time, in Unix seconds, at which the message arrived."""
    try:
        return Welcome(
            fedlens=clean.line(str(head["fedlens"]), LONGEST_VERSION),
            flwr=clean.line(str(head["flwr"]), LONGEST_VERSION),
            ahead=heard - float(head["clock"]),  # type: ignore[arg-type]
            registered=clean.line(str(head["registered"])),
            present=tuple(map(int, head["present"])),  # type: ignore[arg-type]
            same_code=same_code,
        )
    except (KeyError, TypeError, ValueError) as error:
        theirs = clean.line(str(head.get("fedlens")), LONGEST_VERSION)
        raise ProtocolError(f"FedLens is {version('fedlens')} here, {theirs} at the server") from error
