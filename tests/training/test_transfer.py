"""The pace of training by depth and round: ULMFiT's rates and unfreezing, linear probing before fine-tuning."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.helpers import CPU, combined, infos, tiny_data
from torch import nn

from fedlens.aggregation.mean import WeightedMean
from fedlens.config.blocks import OPTIMIZER
from fedlens.core.client_store import ClientStore
from fedlens.core.types import ClientResult, Task, TaskSettings
from fedlens.models.base import Preprocessing, Recognizer, prepare
from fedlens.personalization.apfl import APFL
from fedlens.personalization.base import Personalization
from fedlens.personalization.ditto import Ditto
from fedlens.personalization.fedala import FedALA
from fedlens.personalization.finetune import FineTune
from fedlens.personalization.pfedme import PFedMe
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.runtimes.local import LocalRuntime
from fedlens.strategies.base import ClientContext, LocalTerms, Strategy
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.client import ClientTrainer
from fedlens.training.flat import FlatModel
from fedlens.training.sections import OptimizerSection, TransferSection
from fedlens.training.settings import LocalSettings

DATA = tiny_data()
LOW, HIGH, HEAD = "backbone.0.", "backbone.3.", "head."
LOW_NORM, HIGH_NORM = "backbone.1.", "backbone.4."


def layered() -> Recognizer:
    """Three groups: two convolutions with their norms, and the head."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.AdaptiveAvgPool2d((1, 8)), nn.Flatten(),
        )  # fmt: skip
        return Recognizer(backbone, nn.Linear(32, 3), Preprocessing(8, 1))


def trainer(
    transfer: TransferSection, folder, algorithm: Algorithm | Strategy | None = None, batch_size: int = 4, **optimizer
) -> ClientTrainer:
    """`algorithm`: a strategy alone stands for itself."""
    algorithm = algorithm if isinstance(algorithm, Algorithm) else Algorithm(algorithm or FedAvg())
    section = OptimizerSection(**optimizer)
    settings = LocalSettings(batch_size=batch_size, optimizer=OPTIMIZER.choose(section), training=section)
    inputs = partial(prepare, how=Preprocessing(8, 1))
    return ClientTrainer(
        FlatModel(layered(), CPU), DATA, algorithm, settings, ClientStore(folder), inputs,
        transfer=transfer,
    )  # fmt: skip


def update(one: ClientTrainer, round_number: int, lr: float = 0.1) -> dict[str, torch.Tensor]:
    return one.run(Task("client0", round_number, "train", one.model.state(), TaskSettings(lr=lr))).payload


def moved(one: ClientTrainer, round_number: int) -> set[str]:
    return {name for name, value in update(one, round_number).items() if value.any()}


def under(*groups: str) -> set[str]:
    return {name for name in FlatModel(layered(), CPU).names if name.startswith(groups)}


def test_ulmfits_rates() -> None:
    """ηˡ⁻¹ = ηˡ / 2.6: the group below the head gets 1 / 2.6, the next 1 / 6.76."""
    assert TransferSection(layer_decay=1 / 2.6).rates(3, 1) == pytest.approx((1 / 6.76, 1 / 2.6, 1.0))


def test_one_more_group_every_k_rounds() -> None:
    rates = [TransferSection(unfreeze_every=2).rates(3, number) for number in range(1, 8)]
    assert rates == [(0, 0, 1)] * 2 + [(0, 1, 1)] * 2 + [(1, 1, 1)] * 3


def test_the_head_alone_then_everything() -> None:
    rates = [TransferSection(probe_rounds=2, layer_decay=0.5).rates(3, number) for number in range(1, 4)]
    assert rates == [(0, 0, 1)] * 2 + [(0.25, 0.5, 1)]


class Pulled(Strategy):
    """A correction that never rests."""

    def terms(self, ctx: ClientContext) -> LocalTerms:
        return LocalTerms(correction=torch.ones_like)


@pytest.mark.parametrize("strategy", [FedAvg(), Pulled()])
@pytest.mark.parametrize("optimizer", [{"weight_decay": 0.1}, {"name": "adamw", "weight_decay": 0.1}])
def test_unfreezing_moves_exactly_what_it_should(strategy, optimizer, tmp_path) -> None:
    """Running statistics of what rests stay too; weight decay, momentum and corrections move nothing there."""
    one = trainer(TransferSection(unfreeze_every=2), tmp_path, strategy, **optimizer)
    expected = [(HEAD,)] * 2 + [(HEAD, HIGH, HIGH_NORM)] * 2 + [(HEAD, HIGH, HIGH_NORM, LOW, LOW_NORM)]
    assert [moved(one, number) for number in range(1, 6)] == [under(*groups) for groups in expected]
    assert moved(one, 1) == under(HEAD)  # a worker may be handed an earlier round again


def test_what_rests_is_not_clipped_for(tmp_path) -> None:
    """The norm that clipping looks at is that of what is trained: one step is as long as it may be."""
    one = trainer(TransferSection(probe_rounds=1), tmp_path, batch_size=12, clip_norm=0.01, momentum=0.0)
    delta = update(one, 1, lr=0.1)
    assert torch.cat([delta[name].flatten() for name in under(HEAD)]).norm() == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("optimizer", [{"momentum": 0.9, "weight_decay": 0.1}, {"name": "adamw", "weight_decay": 0.1}])
def test_a_rate_is_a_learning_rate(optimizer, tmp_path) -> None:
    """One step with layer_decay is, group by group, the step that this group's learning rate gives."""
    found = update(trainer(TransferSection(layer_decay=0.5), tmp_path, batch_size=12, **optimizer), 1, lr=0.1)
    for group, lr in ((HEAD, 0.1), (HIGH, 0.05), (LOW, 0.025)):
        plain = trainer(TransferSection(), tmp_path, batch_size=12, **optimizer)
        expected = update(plain, 1, lr=lr)
        for name in under(group) & plain.model.trainable:
            assert torch.allclose(found[name], expected[name], atol=1e-7), name
            assert found[name].any()


def test_a_resting_group_gets_no_gradient(tmp_path) -> None:
    """The way back through the network ends above it: probing costs little more than the forward pass."""
    one = trainer(TransferSection(probe_rounds=1), tmp_path)
    update(one, 1)
    asked = {name for name, parameter in one.model.module.named_parameters() if parameter.requires_grad}
    assert asked == under(HEAD)
    update(one, 2)
    assert all(parameter.requires_grad for parameter in one.model.module.parameters())


@pytest.mark.parametrize(
    "method", [APFL(), Ditto(), PFedMe(), FedALA(layers=3), FineTune()], ids=lambda method: type(method).__name__
)
def test_a_client_s_own_model_keeps_to_the_pace(method: Personalization, tmp_path) -> None:
    """Two rounds of probing, then all trains: what rests stays at home, too, and wakes up as it was."""
    one = trainer(TransferSection(probe_rounds=2), tmp_path, Algorithm(Pulled(), method), weight_decay=0.5)
    shared, resting = one.model.state(), one.model.trainable - under(HEAD)
    version = None
    for number in (1, 2, 3, 4):
        answer = one.run(Task("client0", number, "train", shared, TaskSettings(lr=0.05), version))
        assert isinstance(answer, ClientResult)
        version = number if answer.report.stored else None
        one.load_client_model(Task("client0", number, "evaluate", shared, TaskSettings(lr=0.05), version))
        own = one.model.state()
        for name in resting:
            if number < 3:
                assert not answer.payload[name].any(), name
                torch.testing.assert_close(own[name], shared[name], msg=lambda text, n=name: f"{n}: {text}")
            else:
                assert own[name].norm() >= 0.2 * shared[name].norm(), name
        moved_at_home = {name for name in one.model.trainable if not torch.allclose(own[name], shared[name], atol=1e-6)}
        assert moved_at_home == under(HEAD) if number < 3 else moved_at_home > under(HEAD)


def test_without_a_head_the_last_layer_is_the_last_group(tmp_path) -> None:
    """A user's own module."""
    one = trainer(TransferSection(probe_rounds=1), tmp_path)
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    another = ClientTrainer(
        FlatModel(own, CPU), DATA, Algorithm(FedAvg()), one.settings, ClientStore(tmp_path), one._prepare,
        transfer=TransferSection(probe_rounds=1),
    )  # fmt: skip
    assert moved(another, 1) == {"3.weight", "3.bias"}


def test_worker_processes_do_the_same(tmp_path) -> None:
    def after(place) -> list[dict[str, torch.Tensor]]:
        found, state = [], FlatModel(layered(), CPU).state()
        try:
            for number in range(1, 4):
                tasks = [Task(client.name, number, "train", state, TaskSettings(lr=0.1)) for client in place.clients()]
                place.submit(tasks)
                total = combined(place.completed(), WeightedMean())
                state = {name: value + total.delta[name] for name, value in state.items()}
                found.append(total.delta)
        finally:
            place.close()
        return found

    make = partial(trainer, TransferSection(unfreeze_every=1, layer_decay=0.5), tmp_path)
    alone = after(InProcessRuntime(infos(DATA), make))
    shared_out = after(LocalRuntime(infos(DATA), make, workers=2, threads_per_worker=1, start_method="fork"))
    for one, other, groups in zip(
        alone, shared_out, ((HEAD,), (HEAD, HIGH, HIGH_NORM), (HEAD, HIGH, HIGH_NORM, LOW, LOW_NORM)), strict=True
    ):
        assert {name for name, value in other.items() if value.any()} == under(*groups)
        for name, value in one.items():
            assert torch.allclose(value, other[name], atol=1e-5), name
