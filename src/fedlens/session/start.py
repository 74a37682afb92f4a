"""Where a run begins: at its newest checkpoint or at the start; and what its folder holds before the first round."""

from __future__ import annotations

import shlex

from fedlens.build.experiment import Experiment
from fedlens.config.blocks import PYTHON
from fedlens.config.load import dump
from fedlens.config.paths import PATHS_FILE, save_paths
from fedlens.core.files import write_json
from fedlens.errors import CheckpointError
from fedlens.federation.checkpoints import Checkpoint, Checkpoints
from fedlens.runtimes.base import Runtime
from fedlens.tracking.observer import Observer
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.saved import read_saved


def starting_point(folder: RunDir, experiment: Experiment, checkpoints: Checkpoints, observer: Observer) -> Checkpoint:
    """The newest whole checkpoint, or the beginning.

    Raises:
        CheckpointError: the images, or who holds them, are not as they were when the run began.
    """
    fingerprint = folder.fingerprint
    if fingerprint.exists() and read_saved(fingerprint, str) != experiment.images.cache_key:
        given = experiment.config.data.source == PYTHON
        back = "give the same ones as data=" if given else "put them back, say data.path=FOLDER where they have moved"
        raise CheckpointError(
            f"the images have changed since {folder.path} began: {back}, or start a new run with `fedlens run`"
        )
    if not folder.divides(experiment.images):
        raise CheckpointError(
            f"{folder.path}: the images are divided among the clients in another way than when this run began, "
            "which was perhaps with an older version of FedLens: start a new run with `fedlens run`"
        )
    write_json(fingerprint, experiment.images.cache_key)
    first = Checkpoint(0, experiment.algorithm.strategy.init(experiment.shared))
    found = checkpoints.latest(observer.note)
    if found is None and folder.result.exists():
        raise CheckpointError(
            f"{folder.path}: this run has finished and its checkpoints were removed, so it cannot go on: start a new "
            f"one with `fedlens run {shlex.quote(str(folder.config))}`"
        )
    start = found or first
    start.check_model(first.state.shared)
    return start


def prepare_folder(folder: RunDir, experiment: Experiment, runtime: Runtime) -> None:
    """Write the files that a reader of the folder needs, before the first round."""
    folder.result.unlink(missing_ok=True)  # a finished run may go on
    folder.save_config(dump(experiment.config))
    save_paths(folder.config.with_name(PATHS_FILE), experiment.config)
    folder.save_versions(str(experiment.device))
    folder.save_data(experiment.images, runtime.known(), experiment.display)
