"""Sends the messages of a run through the grid that is connected at the moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedlens.flower.internals.grid import calling
from fedlens.flower.messages import CONTROL, HEAD, head
from fedlens.training.tasks.base import kind_of

T = TypeVar("T")

MESSAGE_SECONDS = 12 * 3600.0
"""After this time the SuperLink drops a message that was not fetched."""


class Link(Protocol):
    """Holds the grid: that of FedLens' own SuperLink, which can be restarted, or one that was passed in."""

    @property
    def grid(self) -> Grid: ...

    def lost(self) -> bool:
        """Whether the grid is lost."""
        ...

    def renew(self) -> None:
        """A new grid, where there can be one.

        Raises:
            ConnectionFailed: there can be none.
        """
        ...

    def tend(self) -> None:
        """Called from time to time for regular work, such as reading the register of keys again."""
        ...

    def allow(self, nbytes: int) -> None:
        """Set the largest reply that is accepted from now on."""
        ...


class MessageSender:
    """Messages of one run. Every method raises `ConnectionFailed` when the SuperLink cannot be reached."""

    def __init__(self, link: Link, run: str) -> None:
        self._link = link
        self._run = run

    def message(self, node: int, kind: str, content: RecordDict) -> Message:
        return Message(content, node, flower_type(kind), ttl=MESSAGE_SECONDS, group_id=self._run)

    def send(self, messages: list[Message]) -> list[str | None]:
        """Send messages; gives their names, None for one that the SuperLink did not accept."""
        taken = self.grid(lambda grid: set(grid.push_messages(messages)))
        names = [message.metadata.message_id for message in messages]
        return [name if name in taken else None for name in names]

    def say(self, node: int, kind: str, text: str) -> None:
        """Send a message that needs no reply."""
        self.send([self.message(node, kind, RecordDict({HEAD: head(kind, None, text=text)}))])

    def grid(self, call: Callable[[Grid], T]) -> T:
        return calling(self._link.grid, call)


def flower_type(kind: str) -> str:
    """Flower's type of a message of that kind."""
    return "query" if kind in CONTROL else kind_of(kind).flower_type
