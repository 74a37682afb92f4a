"""FedNova by hand, and as FedAvg where it has to be."""

from itertools import count

import pytest
import torch
from tests.strategies.clients import START, local, moved, server, total_of
from tests.strategies.replay import DATA, LR, Replay, close, settings, steps

from fedlens.aggregation.mean import WeightedMean
from fedlens.core.types import Task, TaskSettings
from fedlens.strategies.fedavg import FedAvg
from fedlens.strategies.fednova import FedNova
from fedlens.training.loop import LocalLoop


def stepped(*clients) -> tuple[float, float]:
    strategy = FedNova()
    state = strategy.step(strategy.init(START), total_of(strategy, clients), server())
    return state.shared["w"].item(), state.shared["s"].item()


def test_unequal_steps_by_hand() -> None:
    # p = 1/4 and 3/4, τ = 2 and 6: τ_eff = 0.5 + 4.5 = 5, Σ p Δ/τ = 0.25·1/2 + 0.75·1/6 = 0.25, where FedAvg moves by 1
    clients = [(local(steps=2, examples=10), moved(1.0, 1.0)), (local(steps=6, examples=30), moved(1.0, 3.0))]
    assert stepped(*clients) == pytest.approx((1 + 5 * 0.25, 5 + 2.5))


def test_momentum_counts_steps_by_how_far_they_carry() -> None:
    # ρ = 0.5: ‖a‖₁ = 1 for one step, 2.5 for two. p = 1/2 each: τ_eff = 1.75, Σ p Δ/‖a‖₁ = 0.5·1 + 0.5·1/2.5 = 0.7
    clients = [local(steps=1, momentum=0.5), local(steps=2, momentum=0.5)]
    assert stepped(*[(ctx, moved(1.0)) for ctx in clients])[0] == pytest.approx(1 + 1.75 * 0.7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_equal_steps_are_fedavg(momentum: float, tmp_path) -> None:
    ends = []
    for strategy in (FedNova(), FedAvg()):
        replay = Replay(strategy, tmp_path, settings(momentum))
        mean = WeightedMean()
        for client in DATA.clients:
            mean.add(replay.train(1, replay.model, client=client.name))
        total = mean.result()
        assert total is not None
        ends.append(strategy.step(strategy.init(replay.model), total, replay.context(1)).shared)
    assert (ends[1]["head.weight"] - replay.model["head.weight"]).abs().max() > 0.01
    close(*ends, tolerance=1e-6)


def test_running_statistics_travel_as_they_are() -> None:
    done = FedNova().finish(local(steps=4), moved(2.0, 3.0))
    assert {name: value.item() for name, value in done.payload.items()} == {"w": 0.5, "s": 3.0}
    assert done.extra["work"].dtype == torch.float64


def test_its_proximal_term_by_hand() -> None:
    strategy = FedNova(mu=0.2)
    ctx = local(steps=2, lr=0.5)
    correction = strategy.terms(ctx).correction
    assert correction is not None
    assert correction(START["w"] + 3).item() == pytest.approx(0.6)
    # η μ = 0.1: ‖a‖₁ = 1 + 0.9
    assert strategy.finish(ctx, moved(1.9)).payload["w"].item() == pytest.approx(1.0)


def test_a_step_that_fp16_leaves_out_is_no_step(tmp_path, monkeypatch) -> None:
    """Of six batches the second and the fifth overflow at any scale: n ‖a‖₁ is of four plain steps, 12 · 4."""
    differentiate, calls = LocalLoop.differentiate, count(1)
    monkeypatch.setattr(
        LocalLoop, "differentiate", lambda self, *batch: differentiate(self, *batch) and next(calls) not in (2, 5)
    )
    replay = Replay(FedNova(), tmp_path, settings(batch_size=4, epochs=2))
    assert replay.train(1, replay.model).extra["work"].item() == len(DATA.clients[0].train) * (steps(replay.how) - 2)


def test_where_every_step_is_left_out_the_client_fails(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(LocalLoop, "differentiate", lambda self, *batch: self._loss(*batch).isnan().item())
    replay = Replay(FedNova(), tmp_path, settings())
    failed = replay.trainer.run(Task("client0", 1, "train", replay.model, TaskSettings(lr=LR)))
    assert "every gradient overflowed fp16" in failed.reason


def test_its_server_rate() -> None:
    strategy = FedNova(server_lr=0.5)
    total = total_of(strategy, [(local(steps=2), moved(1.0, 1.0))])
    state = strategy.step(strategy.init(START), total, server()).shared
    assert (state["w"].item(), state["s"].item()) == pytest.approx((1.5, 6.0))
