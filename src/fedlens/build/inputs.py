"""Rows of the data as the trained model takes them."""

from __future__ import annotations

from functools import partial

from fedlens.build.builders import preprocessing_of
from fedlens.build.experiment import Experiment
from fedlens.data.types import Rows
from fedlens.models.base import prepare
from fedlens.training.examples import Examples


def inputs_of(experiment: Experiment, rows: Rows) -> Examples:
    """Rows preprocessed for the trained model, without augmentation."""
    how = partial(prepare, how=preprocessing_of(experiment.model, experiment.images))
    channels_last = experiment.config.memory.channels_last
    return Examples(experiment.train_data, rows, how, experiment.device, channels_last=channels_last)
