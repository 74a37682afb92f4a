"""q-FedAvg by hand, and the loss that its clients weigh by."""

from dataclasses import replace

import pytest
import torch
from tests.helpers import tiny_trainer
from tests.strategies.clients import START, local, moved, server, total_of
from tests.strategies.replay import DATA, LR, Replay, loaded, settings
from torch.nn import functional as F

from fedlens.attacks.label_flip import LabelFlip
from fedlens.attacks.plan import AttackPlan
from fedlens.core.types import Task, TaskSettings
from fedlens.models.base import Preprocessing, prepare
from fedlens.strategies.fedavg import FedAvg
from fedlens.strategies.qfedavg import QFedAvg
from fedlens.training.algorithm import Algorithm


def stepped(q: float, *clients, weighted: bool = False) -> tuple[float, float]:
    strategy = QFedAvg(q, weighted)
    state = strategy.step(strategy.init(START), total_of(strategy, clients), server())
    return state.shared["w"].item(), state.shared["s"].item()


def test_algorithm_2_by_hand() -> None:
    # η = 0.5, L = 2, q = 2. y = 1.3 with F = 2: L(x − y) = −0.6, Δ = 4·−0.6 = −2.4, h = 2·2·0.36 + 2·4 = 9.44;
    # y = 0.8 with F = 0.5: L(x − y) = 0.4, Δ = 0.25·0.4 = 0.1, h = 2·0.5·0.16 + 2·0.25 = 0.66. x = 1 + 2.3 / 10.1
    clients = [(local(loss=2.0, examples=5), moved(0.3, 1.0)), (local(loss=0.5, examples=50), moved(-0.2, 2.0))]
    assert stepped(2.0, *clients) == pytest.approx((1 + 2.3 / 10.1, 6.5))


def test_by_images_by_hand() -> None:
    # the clients above with w = 5 and 50: 5·−2.4 + 50·0.1 = −7 and 5·9.44 + 50·0.66 = 80.2. The statistic: 5 + 105 / 55
    clients = [(local(loss=2.0, examples=5), moved(0.3, 1.0)), (local(loss=0.5, examples=50), moved(-0.2, 2.0))]
    assert stepped(2.0, *clients, weighted=True) == pytest.approx((1 + 7 / 80.2, 5 + 105 / 55))


@pytest.mark.parametrize(
    ("steps", "momentum", "h"),
    [
        (1, 0.0, 2.10),  # h / L = q F^(q−1) δ² / η + F^q = 0.01 / 0.1 + 2: the first step has no momentum yet
        (1, 0.9, 2.10),
        (2, 0.0, 2.10),
        (2, 0.9, 2 + 0.01 / 0.145),  # ‖a‖₁ = 1.9 + 1 of two steps: as far as two steps of 0.1 · 2.9 / 2
    ],
)
def test_the_rate_is_how_far_a_step_carries_on_average(steps: int, momentum: float, h: float) -> None:
    ctx = local(loss=2.0, lr=0.1, steps=steps, momentum=momentum)
    assert QFedAvg(1.0, weighted=False).finish(ctx, moved(0.1)).extra["h"].item() == pytest.approx(h)


@pytest.mark.parametrize(
    ("weighted", "expected"),
    [
        (True, 1 - 8.5 / 55),  # 5 · 0.3 − 50 · 0.2 = −8.5: 0.845
        (False, 1.05),  # 1 + (0.3 − 0.2) / 2
    ],
)
def test_q_of_nought_is_the_mean(weighted: bool, expected: float) -> None:
    clients = [(local(loss=2.0, examples=5), moved(0.3)), (local(loss=0.5, examples=50), moved(-0.2))]
    assert stepped(0.0, *clients, weighted=weighted)[0] == pytest.approx(expected)


def test_a_loss_of_nought_is_no_division_by_it() -> None:
    clients = [(local(loss=0.0), moved(0.3)), (local(loss=0.0), moved(0.1))]
    assert torch.tensor(stepped(0.5, *clients)).isfinite().all()


def test_a_power_too_large_is_no_error_and_is_never_sent(tmp_path) -> None:
    done = QFedAvg(1000.0).finish(local(loss=2.3), moved(0.3))
    assert not done.extra["h"].isfinite()
    replay = Replay(QFedAvg(1e6), tmp_path, settings())
    failed = replay.trainer.run(Task("client0", 1, "train", replay.model, TaskSettings(lr=LR)))
    assert "not finite" in failed.reason


@pytest.mark.parametrize(
    ("q", "norm", "h"),
    [
        (1.0, 2.0, 4 / 0.5 * 1e20),  # q ‖F Δ‖² / η · F^(−q−1) at F = 1e-10, beside which F^q is nothing
        (1.0, 0.0, 1e6),  # F^q at F = 1e6
        (0.0, 2.0, 1.0),
        (0.5, 1.0, 0.5 / 0.5 * 1e15 + 1e-5),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_largest_h_by_hand(q: float, norm: float, h: float, weighted: bool) -> None:
    (largest,) = QFedAvg(q=q, weighted=weighted).largest_extras(local(examples=10), norm).values()
    assert largest == pytest.approx(h * (10 if weighted else 1), rel=1e-9)


def test_the_loss_is_the_received_model_s_on_all_the_client_s_training_images(tmp_path) -> None:
    replay = Replay(QFedAvg(q=1.0, weighted=False), tmp_path, settings(momentum=0.0))
    answer = replay.train(1, replay.model)
    rows = torch.from_numpy(DATA.clients[0].train)
    inputs = prepare(DATA.images[rows], Preprocessing(8, 1))
    with torch.no_grad():
        loss = F.cross_entropy(loaded(replay.model).eval()(inputs), DATA.labels[rows]).item()
    plain = Replay(FedAvg(), tmp_path, settings(momentum=0.0)).train(1, replay.model)
    squared = sum(plain.payload[name].square().sum().item() for name in replay.trainable)
    for name in replay.trainable:
        torch.testing.assert_close(answer.payload[name], plain.payload[name] * loss)
    assert answer.extra["h"].item() == pytest.approx(squared / LR + loss, rel=1e-5)


def test_a_malicious_client_s_loss_is_on_the_images_that_it_trains_on(tmp_path) -> None:
    replay, attack = (
        Replay(QFedAvg(), tmp_path / "a", settings()),
        AttackPlan(LabelFlip(), frozenset({"client0"}), 3, seed=0),
    )
    labels = DATA.labels.clone()
    mine = torch.from_numpy(DATA.clients[0].train)
    labels[mine] = 2 - labels[mine]  # flipped by hand; the test images are not
    task = Task("client0", 1, "train", replay.model, TaskSettings(lr=LR))
    attacked = tiny_trainer(Algorithm(QFedAvg(), attack_plan=attack), DATA, tmp_path / "b", settings()).run(task)
    flipped = tiny_trainer(QFedAvg(), replace(DATA, labels=labels), tmp_path / "c", settings()).run(task)
    assert attacked.extra["h"] == flipped.extra["h"]
    assert attacked.extra["h"] != replay.train(1, replay.model).extra["h"]


def test_strategies_that_do_not_ask_get_no_loss(tmp_path) -> None:
    class Curious(FedAvg):
        def finish(self, ctx, delta):
            assert ctx.loss != ctx.loss
            return super().finish(ctx, delta)

    Replay(Curious(), tmp_path, settings()).train(1, Replay(FedAvg(), tmp_path, settings()).model)
