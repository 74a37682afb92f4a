"""Secure aggregation, third stage: local training; the update is masked before it leaves the client."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from fedlens.core.types import (
    ClientFailure,
    ClientInfo,
    ClientReport,
    ClientResult,
    MeanMetric,
    State,
    Task,
    TaskSettings,
    nbytes,
    prefixed,
    under,
)
from fedlens.errors import ProtocolError
from fedlens.privacy.base import LEAVES
from fedlens.secure_aggregation.client import ClientState, mask
from fedlens.secure_aggregation.masks import Words
from fedlens.secure_aggregation.quantization import Bits, Quantization, travelling
from fedlens.training import secure
from fedlens.training.loop import Stepped
from fedlens.training.screening import Expected
from fedlens.training.tasks.base import ServerView, TaskKind, kind_of, task_kinds
from fedlens.transforms.base import SumNoise

if TYPE_CHECKING:
    from fedlens.training.client import ClientTrainer

UPDATE, EXTRA, WEIGHT = "update", "extra", "weight"
"""Names in a masked update: tensors of w·update under the first, the strategy's under the second; and w."""


@dataclass(frozen=True)
class SecureTrainSettings(TaskSettings):
    """present  the client's neighbours that have shared their secrets
    bits, exponent, weight, bound  see `secure_aggregation.quantization.Quantization`
    """

    present: secure.Names = ()
    bits: Bits = 64
    exponent: int = 0
    weight: float = 1.0
    bound: float = 1.0

    @property
    def quantization(self) -> Quantization:
        return Quantization(self.bits, self.exponent, self.weight, self.bound)


@task_kinds.register("secure_train", summary="secure aggregation: local training; the result is masked")
@dataclass(frozen=True)
class SecureTrain(TaskKind):
    """Trains as `train` does, with the same random draws. The result has the form of its update, in integers, of which
    each is uniformly random to whoever lacks the masks."""

    settings = SecureTrainSettings
    flower_type = "train"
    writes_store = True
    takes_time = True
    staged = True

    def steps(self, trainer: ClientTrainer, task: Task) -> int:
        return kind_of("train").steps(trainer, task)

    def run(self, trainer: ClientTrainer, task: Task, kept: State, stepped: Stepped) -> secure.Outcome:
        assert isinstance(task.settings, SecureTrainSettings)
        own = trainer.stage_of(task)
        trained = trainer.run_as("train", task, kept, stepped)
        if isinstance(trained, ClientFailure):
            return trained
        try:
            state = ClientState.of(own.read())
            noise = trainer.algorithm.chain.sum_noise(task.payload, state.cohort)
            state, masked = masked_update(state, trained, task.settings, noise)
        except ProtocolError as error:
            return secure.failure(task, error)
        own.save(state.kept())
        metrics = {name: value for name, value in trained.report.metrics.items() if name in LEAVES}
        metrics["bytes_up"] = MeanMetric(nbytes(masked), 1)
        report = ClientReport(task.client, 1.0, metrics, trained.report.stored)
        return ClientResult(task.round, task.kind, report, masked)

    def expected(self, task: Task, client: ClientInfo | None, view: ServerView) -> Expected:
        assert isinstance(task.settings, SecureTrainSettings)
        dtype = task.settings.quantization.dtype
        plain = kind_of("train").expected(replace(task, kind="train"), client, view)
        shapes = {
            **{f"{UPDATE}/{name}": (dtype, shape) for name, (_, shape) in plain.payload.items()},
            **{f"{EXTRA}/{name}": (dtype, shape) for name, (_, shape) in plain.extra.items()},
            WEIGHT: (dtype, ()),
        }
        return Expected(1, LEAVES, shapes)

    def record(self, result: ClientResult) -> str:
        seconds = result.report.metrics["seconds"].total
        return f"round {result.round}: trained, {seconds:.1f} s; the update was masked"


def masked_update(
    state: ClientState, trained: ClientResult, settings: SecureTrainSettings, noise: SumNoise | None = None
) -> tuple[ClientState, dict[str, torch.Tensor]]:
    """The client's next state, and its masked update.

    Raises:
        ProtocolError: as `quantized_update`; or a stage is repeated or missed.
    """
    vector, shapes = quantized_update(state, trained, settings, noise)
    return mask(state, settings.present, vector), travelling(vector, shapes)


def quantized_update(
    state: ClientState, trained: ClientResult, settings: SecureTrainSettings, noise: SumNoise | None
) -> tuple[Words, State]:
    """What is masked: w·update, extras and w as integers, with this client's shares of `noise`; and tensors with their
    names and shapes.

    Raises:
        ProtocolError: a number or the weight is too large, or the noise cannot be had in such steps.
    """
    weight = trained.report.weight
    if weight > settings.weight:  # how large it is stays with the client
        raise ProtocolError(f"its weight is above {settings.weight:g}, for which the round was set up")
    weighted = {name: value.double() * weight for name, value in trained.payload.items()}
    summed = {
        **prefixed(UPDATE, weighted),
        **prefixed(EXTRA, trained.extra),
        WEIGHT: torch.tensor(weight, dtype=torch.float64),
    }
    vector = settings.quantization.quantized(summed)
    if noise is not None:
        add_noise(noise, vector, summed, state, settings.quantization)
    return vector, summed


def add_noise(noise: SumNoise, vector: Words, shapes: State, state: ClientState, quantization: Quantization) -> None:
    """Add the client's shares to its quantized numbers, in place; none to the weight, which is everybody's 1. `shapes`:
    tensors with the names and shapes of the numbers.

    Raises:
        ProtocolError: there is none in such steps.
    """
    step, round_number, stop = 2.0**-quantization.exponent, state.session.round, 0
    for kind in (EXTRA, UPDATE):  # in the order of names
        start, stop = stop, stop + sum(value.numel() for value in under(kind, shapes).values())
        if kind not in noise.shares:
            continue
        drawn = noise.shares[kind].draw(stop - start, step, state.honest, round_number, state.client, kind)
        if drawn is not None:
            vector[start:stop] += drawn.astype(vector.dtype)  # modulo 2³² or 2⁶⁴
