"""The sites of a run: which are connected, which take part, and which are refused, with the reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from flwr.app import Message, RecordDict

from fedlens.config.blocks import PRIVACY, find
from fedlens.core import clean
from fedlens.core.types import ClientInfo, Split
from fedlens.errors import ProtocolError
from fedlens.flower.internals.grid import NODE_GONE, Connection
from fedlens.flower.message_sender import MessageSender
from fedlens.flower.messages import (
    Description,
    Prepared,
    Refusal,
    Setup,
    Visit,
    inquiry,
    query,
    read_reply,
)

CLOCK_SECONDS = 30
PREPARE_TRIES = 3


@dataclass(frozen=True)
class Bounds:
    """Upper bounds of what sites report. `examples`: images of one site; `classes`: of all sites together, where the
    server has no classes of its own."""

    examples: int
    classes: int


Stage = Literal["describing", "described", "preparing", "ready", "out"]


@dataclass
class ConnectedClient:
    """A connected node. A node that is `out` is never asked again."""

    node: int
    connection: Connection
    stage: Stage = "describing"
    tries: int = 0
    description: Description | None = None
    info: ClientInfo | None = None

    @property
    def name(self) -> str:
        return self.description.name if self.description else f"node {self.node}"


class ClientManager:
    """Asks every node that joins for its description, then sends it the setup; it takes part once it is ready.

    left  called with the name of a site whose connection is lost, or replaced by a newer one
    note  called with a line for the console
    """

    def __init__(
        self, post: MessageSender, bounds: Bounds, *, left: Callable[[str], None], note: Callable[[str], None]
    ) -> None:
        self._sender = post
        self._bounds = bounds
        self._left = left
        self._note = note
        self._sites: dict[int, ConnectedClient] = {}
        self._asked: dict[str, tuple[int, str]] = {}
        self.setup: Setup | None = None
        """None until `open`."""
        self.known: dict[str, ClientInfo] = {}
        """All sites that were ever ready, by name."""

    def open(self, setup: Setup) -> None:
        """Send `setup` to every site from now on."""
        self.setup = setup
        for site in list(self._sites.values()):
            if site.stage == "described":
                self._prepare(site, setup)

    def clear(self) -> None:
        """Forget all connections, because the SuperLink is a new one."""
        self._sites.clear()
        self._asked.clear()

    @property
    def nodes(self) -> list[int]:
        return list(self._sites)

    @property
    def questions(self) -> list[str]:
        """Names of the messages whose reply is awaited."""
        return list(self._asked)

    def here(self) -> list[Description]:
        """Descriptions of the sites that are accepted, by partition."""
        found = [site.description for site in self._sites.values() if site.description and site.stage != "out"]
        return sorted(found, key=lambda description: description.partition)

    def ready(self) -> list[ClientInfo]:
        """The sites that take part, by partition."""
        found = [site.info for site in self._sites.values() if site.stage == "ready" and site.info]
        return sorted(found, key=lambda info: info.partition)

    def ready_nodes(self) -> dict[str, int]:
        """The same by name, with their nodes."""
        return {site.name: site.node for site in self._sites.values() if site.stage == "ready"}

    def meet(self, online: Mapping[int, Connection]) -> None:
        """Update the connections, given all nodes that are connected now."""
        for site in list(self._sites.values()):
            if online.get(site.node) != site.connection:
                self._gone(site)
        for node, connection in online.items():
            if node not in self._sites:
                self._sites[node] = ConnectedClient(node, connection)
                self._ask(node, "describe", inquiry(connection.name, [site.partition for site in self.here()]))

    def replied(self, message: Message) -> bool:
        """Handle a reply to one of the `questions`; False where it replies to another message."""
        question = self._asked.pop(message.metadata.reply_to_message_id, None)
        if question is None:
            return False
        node, kind = question
        if message.has_error() and message.error.code in NODE_GONE:
            self._sites.pop(node, None)  # if one with its key is there by now, that one is asked
        elif node in self._sites:
            self._introduced(self._sites[node], kind, message)
        return True

    def _introduced(self, site: ConnectedClient, kind: str, message: Message) -> None:
        try:
            failed = Refusal(f"Flower reports: {message.error.reason}") if message.has_error() else None
            content = failed or read_reply(message.content)
        except ProtocolError as error:
            return self._refuse(site, clean.line(str(error)))
        if isinstance(content, Refusal | Visit):
            return self._stays_out(site, content)
        if kind == "describe" and isinstance(content, Description):
            return self._describe(site, content)
        if kind == "prepare" and isinstance(content, Prepared) and self.setup:
            return self._admit(site, content, self.setup)
        return self._refuse(site, "its reply does not fit the question")

    def _stays_out(self, site: ConnectedClient, content: Refusal | Visit) -> None:
        if isinstance(content, Visit):
            del self._sites[site.node]  # the client itself may be there already, with the same key
            return None
        if self.setup and site.stage == "preparing" and not content.final and site.tries < PREPARE_TRIES:
            site.tries += 1
            self._note(f"{site.name} failed to get ready, and is asked again: {content.reason}")
            return self._prepare(site, self.setup)
        site.stage = "out"
        return self._note(f"{site.name} stays out: {content.reason}")

    def _describe(self, site: ConnectedClient, description: Description) -> None:
        site.description = description
        if site.connection.name not in ("", description.name):
            return self._refuse(
                site,
                f"its key is {site.connection.name}'s, and it is {description.name} (partition_id = "
                f"{description.partition}): start it with the name or partition_id of its key, or with "
                f"{description.name}'s folder of certificates",
            )
        if excess := self._excess(description):
            return self._refuse(site, excess)
        for other in list(self._sites.values()):
            if other is site or other.description is None or other.stage == "out":
                continue
            if other.description.identity == description.identity:
                self._left(other.name)  # the same site after a restart; its old connection has not timed out yet
                self._refuse(other, "this site has joined again from another place", quiet=True)
            elif other.description.partition == description.partition or other.name == description.name:
                return self._refuse(
                    site,
                    f"partition {description.partition} ({description.name}) is already here from another place, with "
                    f"{other.description.images} images: give each client a --partition_id of its own",
                )
        site.stage = "described"
        ahead = description.clock - time.time()
        if abs(ahead) > CLOCK_SECONDS:
            self._note(f"{site.name}'s clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}")
        if self.setup is not None:
            self._prepare(site, self.setup)
        return None

    def _excess(self, description: Description) -> str | None:
        """Why a site's description is above the bounds; None where it is not."""
        bounds = self._bounds
        if description.images > bounds.examples:
            return (
                f"it claims {description.images:,} images, and server.max_examples is {bounds.examples:,}; set that to "
                "the most that a site really has"
            )
        if self.setup is not None:  # the classes are settled: a site that has others refuses by itself
            return None
        others = {name for other in self.here() if other.name != description.name for name in other.class_names}
        classes = len(others.union(description.class_names))
        if classes > bounds.classes:
            return (
                f"with its {len(description.class_names):,} classes there would be {classes:,}, and server.max_classes "
                f"is {bounds.classes:,}; set that to the number of classes, or give the server images (data.path)"
            )
        return None

    def _prepare(self, site: ConnectedClient, setup: Setup) -> None:
        site.stage = "preparing"
        self._ask(site.node, "prepare", query("prepare", setup))

    def _admit(self, site: ConnectedClient, ready: Prepared, setup: Setup) -> None:
        assert site.description is not None
        about, classes = site.description, len(setup.class_names)
        complete = all(len(split) == classes for split in (ready.train, ready.val, ready.test))
        trains = any(ready.train) or ready.unlabelled > 0
        if not (complete and trains) and not (ready.hidden and hides_counts(setup)):
            return self._refuse(site, f"it has no training images of the run's {classes} classes")
        held_in_all = sum(map(sum, (ready.train, ready.val, ready.test))) + ready.unlabelled
        if held_in_all > about.images:
            return self._refuse(site, f"it reports {held_in_all} images, and has introduced itself with {about.images}")
        counts: dict[Split, tuple[int, ...]] = {"train": ready.train, "val": ready.val, "test": ready.test}
        site.info = ClientInfo(
            about.name, about.partition, counts, about.device, ready.hidden, ready.cross_site, ready.unlabelled
        )
        site.stage = "ready"
        back = about.name in self.known
        self.known[about.name] = site.info
        held = f"{site.info.examples} training images of {sum(1 for count in ready.train if count)} classes, "
        self._note(f"{about.name} is {'back' if back else 'here'}: {'' if ready.hidden else held}{about.device}")
        return None

    def _refuse(self, site: ConnectedClient, reason: str, *, quiet: bool = False) -> None:
        site.stage = "out"
        if not quiet:
            self._note(f"{site.name} stays out: {reason}")
        self._sender.say(site.node, "refuse", reason)

    def _gone(self, site: ConnectedClient) -> None:
        del self._sites[site.node]
        self._asked = {name: asked for name, asked in self._asked.items() if asked[0] != site.node}
        if site.stage == "ready":
            self._left(site.name)
            self._note(f"{site.name} has gone")

    def _ask(self, node: int, kind: str, content: RecordDict) -> None:
        (name,) = self._sender.send([self._sender.message(node, kind, content)])
        if name:
            self._asked[name] = (node, kind)


def hides_counts(setup: Setup) -> bool:
    """Whether the run's privacy has sites keep to themselves how many images of which class they have."""
    mode = setup.config.get("privacy", {}).get(PRIVACY.key, PRIVACY.default)
    return find(PRIVACY, mode).factory.protects
