"""FedLens as a Flower app, for Flower's own commands: `flower-supernode`, `flwr run`, and Flower's Ray simulation.

The bundle of `runtimes/flower/bundle.py` imports the two names `client_app` and `server_app`. A SuperNode of Flower's
starts a process for every message; what has to outlive a message lies in the site's state folder, as a resident
client's does.

    python -m fedlens.flower_app ./fedlens-app     # writes the app's files, for `flwr run ./fedlens-app`
"""

from __future__ import annotations

import json
import shlex
import sys
import time
import traceback
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NoReturn

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedlens.config.load import load
from fedlens.config.site import SiteConfig, load_site
from fedlens.data.excerpt import excerpt
from fedlens.data.export import take
from fedlens.data.folders import existing_folder, sub_folders
from fedlens.data.sources.clients import TEST_FOLDER
from fedlens.data.types import ImageTable
from fedlens.errors import ConfigError, ConnectionFailed, FedLensError
from fedlens.runtimes.flower.bundle import files
from fedlens.runtimes.flower.client import Desk, Farewell, Said
from fedlens.runtimes.flower.internals import taken_apart
from fedlens.runtimes.flower.journal import Outbox
from fedlens.runtimes.flower.messages import Refusal, reply
from fedlens.runtimes.flower.runtime import FlowerRuntime
from fedlens.serve import NO_DEADLINE, conduct_sites
from fedlens.site import Site, alone
from fedlens.tracking.console import ConsoleTracker
from fedlens.tracking.run_dir import RunDir

SAMPLE_IMAGES = 200
"""Of each simulated client where no data is named: those of `fedlens data sample`."""

DESKS = 4
"""Sites that a simulation's actor keeps ready; any other is built again for a message."""

client_app = ClientApp()
server_app = ServerApp()


# -- a client ----------------------------------------------------------------------------------------------------------


@client_app.query()
@client_app.train()
@client_app.evaluate()
def answer(message: Message, context: Context) -> Message:
    """The reply to one message, whatever happens: an exception would be told to nobody but Flower's log."""
    try:
        site, desk = _desk(json.dumps([dict(context.node_config), str(context.run_config.get("data", ""))]))
        with alone(site):
            said = desk.answer(message)
            return _sent(said, message, site, context.node_id) if isinstance(said, Said) else _parting(said, message)
    except FedLensError as error:
        return _plain(Refusal(str(error)), message)
    except Exception:
        return _plain(Refusal(f"the site failed: {traceback.format_exc(limit=-3)}", final=False), message)


@lru_cache(maxsize=DESKS)
def _desk(about: str) -> tuple[SiteConfig, Desk]:
    """The site that `about` describes: JSON of a SuperNode's configuration and the run's "data"."""
    node, data = json.loads(about)
    if "data-dir" in node or "config" in node:
        site = configured(node)
        return site, Desk(Site(site, print, _silent))
    try:
        partition, clients = int(node["partition-id"]), int(node["num-partitions"])
    except KeyError as error:
        raise ConfigError(
            f"this SuperNode says nothing of its images: start it with --node-config 'data-dir=\"FOLDER\" "
            f"partition-id=0' (missing: data-dir, or {error} of a simulation)"
        ) from error
    site = simulated(partition, data)
    return site, Desk(Site(site, print, _silent) if data else _Shop(site, clients))


def configured(node: dict[str, bool | float | int | str]) -> SiteConfig:
    """The site of a SuperNode: "config" is its site.yaml; "data-dir", "partition-id" and the other keys of one go over it.

    Keys that are none of ours are left alone: a SuperNode has one configuration for all apps that it runs.

    Raises:
        ConfigError: one line for each mistake.
    """
    keys = {key.replace("-", "_"): value for key, value in node.items() if key != "config"}
    given = [f"{key}={json.dumps(value)}" for key, value in keys.items() if key in SiteConfig.model_fields]
    return load_site(Path(str(node["config"])) if "config" in node else None, given)


def simulated(partition: int, data: str) -> SiteConfig:
    """The site of a simulated client: the folder of its number below `data`, with a state folder of its own.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = Path()
    name = f"client{partition + 1}"
    if data:
        folders = [folder for folder in sub_folders(existing_folder(Path(data))) if folder.name != TEST_FOLDER]
        if partition >= len(folders):
            raise ConfigError(f"data={data!r} holds {len(folders)} clients; there is none for partition {partition}")
        folder, name = folders[partition], folders[partition].name
    site = SiteConfig(data_dir=folder, partition_id=partition, name=name)
    return site.model_copy(update={"state_dir": site.state.parent / "simulation" / name})


class _Shop(Site):
    """A simulated client that holds a part of the sample."""

    def __init__(self, config: SiteConfig, clients: int) -> None:
        super().__init__(config, print, _silent)
        self._clients = clients

    @cached_property
    def _table(self) -> ImageTable:
        table = excerpt(self._clients, SAMPLE_IMAGES, 0)
        assert table.clients is not None
        own = take(table, (table.clients == self._config.client).nonzero()[0])
        return replace(own, clients=None, split=None)


def _silent(_label: str) -> Progress:
    return lambda _done, _total: None
