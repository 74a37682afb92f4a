"""MLflow (the extra `fedlens[mlflow]`): each run of FedLens is one of its runs, in a SQLite file or at a server.

MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME choose another place. API: https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedlens.config.schema import Config
from fedlens.core.files import write_json
from fedlens.tracking.hyper_parameters import Value, all_parameters
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.saved import read_saved
from fedlens.tracking.scalars import scalars_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "fedlens"

IN_EVERY_ROUND = "train/learning_rate"
"""A metric that every round has: its history tells which rounds MLflow has."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 would hold up a run for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Of MLflow, where the environment says nothing else."""

BATCH = 900
"""MLflow takes at most 1,000 metrics, and 100 parameters, in one request."""
PARAMETERS = 100


class MLflowWriter:
    """Writer to MLflow. `mlflow.json` in the run's folder keeps the id of MLflow's run, and nothing else: an address
    may hold a password."""

    def __init__(self, folder: RunDir, config: Config) -> None:
        self._folder = folder
        self._config = config
        self._keeps = folder.path / "mlflow.json"

    def open(self, earlier: Sequence[Mapping[str, Any]]) -> None:
        """Start a run, or go on with the one that this folder names. Rounds that it lacks are added; those that it has,
        also from after the last checkpoint, are not written again, because MLflow cannot take a value back."""
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells how it makes its tables
        self._client: MlflowClient = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or self._local_store())
        run = self._earlier_run() or self._new_run()
        self._run: str = run.info.run_id
        write_json(self._keeps, {"run_id": self._run})
        self._client.update_run(self._run, status="RUNNING")
        self._log_parameters(run)
        self._written = {metric.step for metric in self._client.get_metric_history(self._run, IN_EVERY_ROUND)}
        for line in earlier:
            self.scalars(line["round"], scalars_of(line))

    def scalars(self, number: int, values: Mapping[str, float]) -> None:
        if number not in self._written:
            self._log(values, number)
            self._written.add(number)

    def picture(self, tag: str, image: NDArray[np.uint8], number: int) -> None:
        self._client.log_image(self._run, image, f"pictures/{tag.replace('/', '-')}.png")

    def finish(self, parameters: Mapping[str, Value], final: Mapping[str, float]) -> None:
        named = {f"final/{name}": value for name, value in final.items()}
        known = self._client.get_run(self._run).data.metrics
        last = max(self._written, default=0)
        self._log({name: value for name, value in named.items() if known.get(name) != value}, last)

    def report(self, path: Path) -> None:
        self._client.log_artifact(self._run, str(path))

    def close(self, ended: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if ended else "FAILED")

    def _local_store(self) -> str:
        """A database beside the runs; pictures and reports lie beside it.

        MLflow makes one in many steps, takes seconds, and cannot go on with a part of it. So one process makes it under
        another name, and those of a sweep wait.
        """
        from mlflow import MlflowClient

        self._place.mkdir(exist_ok=True)
        database, new = self._place / "mlflow.db", self._place / "mlflow.db.new"
        with (self._place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not database.exists():
                new.unlink(missing_ok=True)
                MlflowClient(f"sqlite:///{new}").search_experiments()
                new.rename(database)
        return f"sqlite:///{database}"

    @property
    def _place(self) -> Path:
        return self._folder.path.parent.resolve() / "mlflow"

    def _earlier_run(self) -> Run | None:
        """None: there was none, or it is not in this store."""
        from mlflow.exceptions import MlflowException

        if not self._keeps.exists():
            return None
        try:
            return self._client.get_run(read_saved(self._keeps, dict[str, str])["run_id"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _new_run(self) -> Run:
        return self._client.create_run(self._experiment(), run_name=self._folder.name)

    def _experiment(self) -> str:
        """The id of the experiment, which is made where there is none yet; runs of a sweep may do so at once."""
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        own = not os.environ.get("MLFLOW_TRACKING_URI")
        place = (self._place / "artifacts").as_uri() if own else None
        try:
            return str(self._client.create_experiment(name, artifact_location=place))
        except MlflowException:
            if found := self._client.get_experiment_by_name(name):
                return str(found.experiment_id)
            raise

    def _log_parameters(self, run: Run) -> None:
        """MLflow's parameters never change: a key that a resume has changed becomes a tag."""
        from mlflow.entities import Param, RunTag

        told = {key: str(value) for key, value in all_parameters(self._config).items()}
        known = run.data.params
        changed = [RunTag(key, value) for key, value in told.items() if known.get(key, value) != value]
        new = [Param(key, value) for key, value in told.items() if key not in known]
        for start in range(0, len(new), PARAMETERS):
            self._client.log_batch(self._run, params=new[start : start + PARAMETERS])
        if changed:
            self._client.log_batch(self._run, tags=changed)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [Metric(_named(tag), value, now, step) for tag, value in values.items() if math.isfinite(value)]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self._run, metrics=metrics[start : start + BATCH])


def _named(tag: str) -> str:
    """`tag` with the characters that MLflow allows, and no more of them than it allows."""
    return re.sub(r"[^\w.\- :/]", "_", tag)[:250]
