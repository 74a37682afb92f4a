"""Weights & Biases (the extra `fedlens[wandb]`): each run of FedLens is one of its runs, in a folder or at a server.

Without a key it is offline: nothing leaves the machine before `wandb sync`. API: https://docs.wandb.ai/ref/python/
"""

from __future__ import annotations

import math
import netrc
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from fedlens.config.schema import Config
from fedlens.core.files import write_json
from fedlens.tracking.hyper_parameters import Value, parameter_tree
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.saved import read_saved
from fedlens.tracking.scalars import scalars_of

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

PROJECT = "fedlens"

START_SECONDS, END_SECONDS = 30, 120
"""How long a run waits for the server before its rounds, and with what is not sent yet after them."""

SETTINGS = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
"""Of W&B's client, where the environment says nothing else: no reports of errors, no lines of its own."""

ONLINE = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
"""Variables by which a user says what W&B's client shall do; without them and a login it is offline."""


class WandbWriter:
    """Writer to Weights & Biases. `wandb.json` in the run's folder keeps the id of W&B's run.

    W&B's own steps only grow, so rounds are a value, `round`, and the axis of all curves.
    """

    def __init__(self, folder: RunDir, config: Config) -> None:
        self._folder = folder
        self._config = config
        self._keeps = folder.path / "wandb.json"

    def open(self, earlier: Sequence[Mapping[str, Any]]) -> None:
        """Start a run, or go on with the one that this folder names.

        A server tells its last round, and the later ones are sent. What is offline is written again with all rounds,
        in place of the folders before: so one folder holds the whole run, and each round once.
        """
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        import wandb

        known = self._keeps.exists()
        run_id = read_saved(self._keeps, dict[str, str])["run_id"] if known else uuid.uuid4().hex[:12]
        write_json(self._keeps, {"run_id": run_id})
        offline = [] if online() else list(self._place.glob(f"wandb/offline-run-*-{run_id}*"))
        self._run: Run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            dir=str(self._place),
            id=run_id,
            name=self._folder.name,
            config=parameter_tree(self._config),
            mode=None if online() else "offline",
            resume="allow" if online() else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,  # an address of git may hold a password
                x_disable_meta=True,  # the command line and the user
                host="-",  # not the name of this machine
                save_code=False,
                init_timeout=START_SECONDS,
                finish_timeout=END_SECONDS,
            ),
        )
        self._run.config.update(parameter_tree(self._config), allow_val_change=True)
        self._run.define_metric("*", step_metric="round", step_sync=False)
        self._written = int(self._run.summary.get("round") or 0)
        for line in earlier:
            self.scalars(line["round"], scalars_of(line))
        for folder in {*offline} - {Path(self._run.dir).parent}:
            shutil.rmtree(folder, ignore_errors=True)

    def scalars(self, number: int, values: Mapping[str, float]) -> None:
        if number > self._written:
            finite = {tag: value for tag, value in values.items() if math.isfinite(value)}
            self._run.log({"round": number, **finite})
            self._written = number

    def picture(self, tag: str, image: NDArray[np.uint8], number: int) -> None:
        import wandb

        self._run.log({f"pictures/{tag}": wandb.Image(image)}, commit=False)

    def finish(self, parameters: Mapping[str, Value], final: Mapping[str, float]) -> None:
        self._run.summary.update({f"final/{name}": value for name, value in final.items()})

    def report(self, path: Path) -> None:
        import wandb

        artifact = wandb.Artifact(f"report-{self._run.id}", "report")
        artifact.add_file(str(path), policy="immutable")  # sent from where it lies, without a copy in the user's home
        self._run.log_artifact(artifact)

    def close(self, ended: bool) -> None:
        self._run.finish(exit_code=0 if ended else 1)

    @property
    def _place(self) -> Path:
        """W&B makes a folder `wandb` in it, beside the runs."""
        return self._folder.path.parent.resolve()


def online() -> bool:
    """Whether the user has given W&B a mode, a key or a login (`wandb login`)."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode != "offline"
    return any(os.environ.get(name) for name in ONLINE) or _logged_in()


def _logged_in() -> bool:
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
