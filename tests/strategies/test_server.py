"""Each server update against numbers worked out by hand from the paper's equations."""

import math

import pytest
import torch
from tests.strategies.clients import START, local, moved, received, server, total_of

from fedlens.aggregation.base import AggregatedUpdate
from fedlens.strategies.adaptive import FedAdagrad, FedAdam, FedYogi
from fedlens.strategies.base import ServerState, Strategy, strategies
from fedlens.strategies.fedavgm import FedAvgM

CTX = server()


def two_steps(strategy: Strategy, first: float, second: float) -> ServerState:
    """Start at w = 1 and a running statistic s = 5; take two mean updates of w; s always moves by 0.5."""
    state = strategy.init(START)
    for delta in (first, second):
        total = AggregatedUpdate({"w": torch.tensor([delta]), "s": torch.tensor([0.5])}, {}, weight=10, count=2)
        state = strategy.step(state, total, CTX)
    return state


def test_fedavgm_accumulates_velocity() -> None:
    # v1 = 0.2, x1 = 1 + 0.5·0.2 = 1.1; v2 = 0.9·0.2 − 0.1 = 0.08, x2 = 1.1 + 0.5·0.08 = 1.14
    state = two_steps(FedAvgM(server_momentum=0.9, server_lr=0.5), 0.2, -0.1)
    assert state.shared["w"].item() == pytest.approx(1.14)


def test_fedadam() -> None:
    # τ = 0.01, v0 = 1e-4. m1 = 0.02, v1 = 0.99e-4 + 0.01·0.04 = 4.99e-4; m2 = 0.018 − 0.01 = 0.008,
    # v2 = 0.99·4.99e-4 + 0.01·0.01 = 5.9401e-4
    x = 1 + 0.1 * 0.02 / (math.sqrt(4.99e-4) + 0.01) + 0.1 * 0.008 / (math.sqrt(5.9401e-4) + 0.01)
    state = two_steps(FedAdam(server_lr=0.1, tau=0.01), 0.2, -0.1)
    assert state.shared["w"].item() == pytest.approx(x, rel=1e-6)


def test_fedyogi() -> None:
    # v1 = 1e-4 − 0.01·0.04·sign(1e-4 − 0.04) = 5e-4; v2 = 5e-4 + 0.01·0.01 = 6e-4
    x = 1 + 0.1 * 0.02 / (math.sqrt(5e-4) + 0.01) + 0.1 * 0.008 / (math.sqrt(6e-4) + 0.01)
    state = two_steps(FedYogi(server_lr=0.1, tau=0.01), 0.2, -0.1)
    assert state.shared["w"].item() == pytest.approx(x, rel=1e-6)


def test_fedadagrad() -> None:
    # β₁ = 0: m is Δ. v1 = 1e-4 + 0.04, v2 = v1 + 0.01
    x = 1 + 0.1 * 0.2 / (math.sqrt(0.0401) + 0.01) - 0.1 * 0.1 / (math.sqrt(0.0501) + 0.01)
    state = two_steps(FedAdagrad(server_lr=0.1, tau=0.01), 0.2, -0.1)
    assert state.shared["w"].item() == pytest.approx(x, rel=1e-6)


def round_of(strategy: Strategy, state: ServerState, *updates: float) -> ServerState:
    """A round in which clients with 10, 20, … images and 1, 2, … steps end with these updates of w, and s + 0.5."""
    extra = received(strategy, state, CTX)
    contexts = [local(examples=10 * number, steps=number, received=extra) for number in range(1, len(updates) + 1)]
    clients = list(zip(contexts, [moved(update, 0.5) for update in updates], strict=True))
    return strategy.step(state, total_of(strategy, clients), CTX)


ALL = pytest.mark.parametrize("entry", strategies.entries(), ids=lambda entry: entry.name)


@ALL
def test_running_statistics_are_averaged_plainly(entry) -> None:
    strategy = entry.build({})
    state = round_of(strategy, strategy.init(START), 0.2, -0.4)
    assert round_of(strategy, state, 0.3).shared["s"].item() == pytest.approx(6.0)


@ALL
def test_a_step_goes_the_way_that_all_clients_went(entry) -> None:
    strategy = entry.build({})
    assert round_of(strategy, strategy.init(START), 0.2, 0.3).shared["w"].item() > 1.001


@ALL
def test_a_step_leaves_the_state_before_it_alone(entry) -> None:
    strategy = entry.build({})
    before = round_of(strategy, strategy.init(START), 0.1)
    copies = {name: value.clone() for name, value in {**before.shared, **before.extra}.items()}
    round_of(strategy, before, 0.3, -0.2)
    assert all(torch.equal(copies[name], value) for name, value in {**before.shared, **before.extra}.items())
