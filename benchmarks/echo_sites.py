"""FedLens' clients without images: they give back what they get, so that only the transport is measured.

As a program, sixteen of them in one process, each with a connection of its own:

    python benchmarks/echo_sites.py 127.0.0.1:8080 16
"""

from __future__ import annotations

import argparse
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from fedlens.core.types import ClientReport, ClientResult, MeanMetric, Task
from fedlens.flower.bundle import bundle
from fedlens.flower.client import Place, ResidentClient, Terms
from fedlens.flower.internals.fleet import FleetLink
from fedlens.flower.message_handler import Goodbye, MessageHandler
from fedlens.flower.messages import Description, Prepared, Setup
from fedlens.flower.worker import Progress, Tell
from fedlens.strategies.base import ClientUpdate
from fedlens.transforms.base import EncodingContext, TransformChain

METRICS = ("loss", "seconds", "update_norm", "bytes_down", "bytes_up")
LARGEST_MESSAGE = 4_000_000_000
AT_ONCE = 2
"""How many of the sites in one process hold a model at the same time."""


class Echo:
    """A site that answers every training task with the same numbers and one more, as peers/stock_app does. `chain`: how
    they are encoded, in both directions."""

    def __init__(self, number: int, chain: TransformChain = TransformChain()) -> None:  # noqa: B008
        self._number = number
        self._chain = chain
        self._identity = secrets.token_hex(8)

    def describe(self) -> Description:
        return Description(
            name=f"client{self._number + 1}",
            partition=self._number,
            identity=self._identity,
            class_names=("picture",),
            images=1,
            native_size=28,
            channels=1,
            device="cpu",
            fedlens=version("fedlens"),
            flwr=version("flwr"),
            clock=time.time(),
        )

    def prepare(self, setup: Setup) -> Prepared:
        none = (0,) * len(setup.class_names)
        return Prepared((1, *none[1:]), none, none)

    def run(self, task: Task, setup: Setup) -> ClientResult:
        received = self._chain.decode_model(task.payload)
        payload = {name: value + (1 + self._number) for name, value in received.items()}
        context = EncodingContext(task.round, task.client, frozenset(payload), {}, 0, 0)
        sent = self._chain.encode(ClientUpdate(payload, 1.0), {}, context).update
        report = ClientReport(task.client, 1.0, {name: MeanMetric(0.0, 1.0) for name in METRICS})
        return ClientResult(task.round, task.kind, report, sent.payload)


class Unwatched:
    """Nobody looks at the client's screen."""

    def note(self, text: str) -> None: ...

    def progress(self, label: str) -> Callable[[int, int], None]:
        return lambda _done, _all: None


def echo(number: int, chain: TransformChain, _tell: Tell, _progress: Progress) -> Echo:
    torch.set_num_threads(1)  # two clients on a machine of two cores
    return Echo(number, chain)


def reside(address: str, number: int, folder: Path, chain: TransformChain) -> None:
    """A whole resident client: this process has the connection, and a worker the site."""
    terms = Terms(LARGEST_MESSAGE, bundle().hash_str, stay=False)
    ResidentClient(Place(address), terms, partial(echo, number, chain), folder, Unwatched()).run()


def answer_all(address: str, number: int, turn: threading.Semaphore) -> None:
    """A site in a thread, until the server ends the run."""
    link, handler = FleetLink(address, None, None), MessageHandler(Echo(number))
    link.join()
    while True:
        incoming = link.receive()
        if incoming is None:
            time.sleep(0.05)
            continue
        with turn:
            done = handler.do(incoming, link.fetch(incoming, LARGEST_MESSAGE))
            link.confirm(incoming)
            if isinstance(done, Goodbye):
                link.close()
                return
            link.send(done.reply)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="host:port of a FedLens server on this machine")
    parser.add_argument("sites", type=int)
    options = parser.parse_args()
    turn = threading.Semaphore(AT_ONCE)
    places = [(options.address, number, turn) for number in range(options.sites)]
    sites = [threading.Thread(target=answer_all, args=place) for place in places]
    for site in sites:
        site.start()
    for site in sites:
        site.join()


if __name__ == "__main__":
    main()
