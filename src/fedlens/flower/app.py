"""FedLens as a Flower app, for Flower's own commands: `flower-supernode`, `flwr run`, and Flower's Ray simulation.

The bundle that a server submits imports `client_app` and `server_app`. Flower's SuperNode starts a process for every
message, so everything that is needed after a message is in the site's state folder, as with a resident client.

    python -m fedlens.flower.app ./fedlens-app     # writes the app's files, for `flwr run ./fedlens-app`
"""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedlens.build.load import load
from fedlens.config.site import SiteConfig, load_site
from fedlens.data.excerpt import excerpt
from fedlens.data.export import take
from fedlens.data.folders import existing_folder, sub_folders
from fedlens.data.split_names import split_word
from fedlens.data.types import ImageTable
from fedlens.errors import ConfigError, ConnectionFailed, FedLensError
from fedlens.flower.bundle import files
from fedlens.flower.internals.parts import taken_apart
from fedlens.flower.journal import Outbox
from fedlens.flower.message_handler import MessageHandler, Reply
from fedlens.flower.messages import Refusal, reply
from fedlens.flower.runtime import FlowerRuntime
from fedlens.flower.serve import NO_DEADLINE, bounds, check_serving, conduct_sites
from fedlens.flower.site import TrainingSite
from fedlens.flower.site_state import exclusive_lock, forget_stages
from fedlens.tracking.console import ConsoleTracker
from fedlens.tracking.observer import Silent
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.stopwatch import Stopwatch

SAMPLE_IMAGES = 200
"""Images of each simulated client where no data is named, as many as `fedlens data sample` writes."""

DESKS = 4
"""How many clients one process of a simulation keeps in memory; others are built again for each message."""

client_app = ClientApp()
server_app = ServerApp()


@client_app.query()
@client_app.train()
@client_app.evaluate()
def answer(message: Message, context: Context) -> Message:
    """The reply to one message. Every failure becomes a refusal, because Flower reports only the name of an exception
    to the server."""
    try:
        site, handler = _handler(json.dumps([dict(context.node_config), str(context.run_config.get("data", ""))]))
        with exclusive_lock(site):
            said = handler.answer(message)
            if isinstance(said, Reply):
                return _sent(said, message, site, context.node_id)
            forget_stages(site.state)
            refusal = Refusal(said.text)  # the run has ended, or continues without this site: this reply is not read
    except FedLensError as error:
        refusal = Refusal(str(error))
    except Exception:
        refusal = Refusal(f"the site failed: {traceback.format_exc(limit=-3)}", final=False)
    print(refusal.reason, flush=True)
    return Message(reply(refusal), reply_to=message)


def _sent(said: Reply, message: Message, site: SiteConfig, node: int) -> Message:
    """The site's reply; it is recorded in the outbox before it is sent."""
    sent = Message(said.content, reply_to=message)
    parts = taken_apart(sent, 0.0).parts
    size = Outbox(site.state / "outbox.jsonl").record(to=f"node {node}", run=said.run, what=said.what, parts=parts)
    if said.text:
        print(f"{site.client}: {said.text}; sent {size / 1e6:.2f} MB", flush=True)
    return sent


@lru_cache(maxsize=DESKS)
def _handler(about: str) -> tuple[SiteConfig, MessageHandler]:
    """The site that `about` describes: JSON of the node's configuration and the run's "data".

    Raises:
        ConfigError, DataError
    """
    node, data = json.loads(about)
    if "data-dir" in node or "config" in node:
        config = site_of(node)
        return config, MessageHandler(TrainingSite(config, print, Silent().progress))
    if not {"partition-id", "num-partitions"} <= node.keys():
        raise ConfigError(
            'this SuperNode does not say where its images are: start it with --node-config \'data-dir="FOLDER" '
            "partition-id=0', or with the path of its site.yaml as config",
            code="missing",
            key="data-dir",
        )
    config = simulated(int(node["partition-id"]), data)
    return config, MessageHandler(
        TrainingSite(config, print, Silent().progress) if data else _Shop(config, int(node["num-partitions"]))
    )


def site_of(node: dict[str, bool | float | int | str]) -> SiteConfig:
    """The site of a SuperNode: `config` is its site.yaml, and keys such as `data-dir` and `partition-id` go over it.
    Other keys are left alone: a SuperNode has one configuration for all apps that it runs.

    Raises:
        ConfigError: one line for each mistake.
    """
    keys = {key.replace("-", "_"): value for key, value in node.items() if key != "config"}
    given = [
        f"{key}={json.dumps(value)}" for key, value in keys.items() if key.split(".")[0] in SiteConfig.model_fields
    ]
    return load_site(Path(str(node["config"])) if "config" in node else None, given)


def simulated(partition: int, data: str) -> SiteConfig:
    """The site of a simulated client: the folder of its number below `data`, and a state folder of its own.

    Raises:
        DataError: `data` is no folder.
        ConfigError: it holds fewer clients.
    """
    folder, name = Path(), f"client{partition + 1}"
    if data:
        held = [folder for folder in sub_folders(existing_folder(Path(data))) if split_word(folder.name) != "test"]
        if partition >= len(held):
            raise ConfigError(
                f"data={data!r} holds the folders of {len(held)} clients: simulate no more SuperNodes",
                code="incompatible",
                key="data",
            )
        folder, name = held[partition], held[partition].name
    site = SiteConfig(data_dir=folder, partition_id=partition, name=name)
    return site.model_copy(update={"state_dir": site.state.parent / "simulation" / name})


class _Shop(TrainingSite):
    """A simulated client that holds a part of the sample."""

    def __init__(self, config: SiteConfig, clients: int) -> None:
        super().__init__(config, print, Silent().progress)
        self._clients = clients

    @cached_property
    def _table(self) -> ImageTable:
        table = excerpt(self._clients, SAMPLE_IMAGES, 0)
        assert table.clients is not None
        own = take(table, (table.clients == self._config.client).nonzero()[0])
        return replace(own, split=None, clients=None)


@server_app.main()
def serve_grid(grid: Grid, context: Context) -> None:
    """A server's whole run over the sites that `grid` reaches. In the run's configuration, `config` names a YAML file
    and `overrides` holds what goes over it: "federated.num_rounds=3 model.name=lenet".

    Raises:
        FedLensError: the run has failed; its folder keeps the last whole checkpoint.
    """
    watch = Stopwatch()
    file, overrides = (str(context.run_config.get(key, "")) for key in ("config", "overrides"))
    observer = ConsoleTracker()
    config = load(Path(file) if file else None, shlex.split(overrides), use="server", note=observer.note)
    check_serving(config)
    folder = RunDir.create(config.tracking.dir, config.tracking.name or f"{config.strategy.name}-{config.model.name}")
    runtime = FlowerRuntime(
        GivenGrid(grid),
        folder.name,
        deadline=config.federated.round_deadline or NO_DEADLINE,
        rejoin=config.server.rejoin_seconds,
        bounds=bounds(config),
        note=observer.note,
    )
    with folder.exclusive_lock(), folder.last_word():
        conduct_sites(config, folder, runtime, observer, (), watch)


class GivenGrid:
    """A `Link` to a SuperLink that Flower's commands manage."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def lost(self) -> bool:
        return False

    def renew(self) -> None:
        """Raises ConnectionFailed: Flower's commands start the SuperLink, not FedLens."""
        raise ConnectionFailed("Flower's SuperLink is gone: start it again, and the run anew")

    def tend(self) -> None: ...

    def allow(self, nbytes: int) -> None: ...


def write_app(folder: Path) -> None:
    """The app's files in `folder`: the same ones that a server submits."""
    for name, content in files().items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)


if __name__ == "__main__":
    write_app(Path(sys.argv[1]))
