"""FedDyn's memories by hand, and its local training against the same done again."""

import pytest
import torch
from tests.strategies.clients import START, local, moved, server, total_of
from tests.strategies.replay import Replay, close, parameters, settings

from fedlens.strategies.feddyn import FedDyn

ALPHA = 0.1


def test_the_client_minimises_the_regularised_loss_and_remembers_its_gradient(tmp_path) -> None:
    replay = Replay(FedDyn(ALPHA), tmp_path, settings(momentum=0.9))
    start = {name: replay.model[name] for name in replay.trainable}

    def regulariser(kept):
        """−⟨g, θ⟩ + α/2 ‖θ − θᵗ⁻¹‖², by autograd."""

        def term(module, inputs, labels):
            named = dict(module.named_parameters())
            pull = sum((named[name] - start[name]).square().sum() for name in start)
            return ALPHA / 2 * pull - sum((kept[name] * named[name]).sum() for name in kept)

        return term

    first = replay.train(1, replay.model)
    close(
        {n: start[n] + first.payload[n] for n in start}, parameters(replay.again(1, replay.model, regulariser({}))[0])
    )
    memory = {name: -ALPHA * first.payload[name] for name in start}
    close(replay.kept(1), memory)

    second = replay.train(2, replay.model, store_version=1)
    module, _ = replay.again(2, replay.model, regulariser(memory))
    close({name: start[name] + second.payload[name] for name in start}, parameters(module))
    close(replay.kept(2), {name: memory[name] - ALPHA * second.payload[name] for name in start})
    assert max(value.abs().max() for value in memory.values()) > 0.01


def test_the_server_by_hand() -> None:
    # α = 0.1, two of four took part, Δ = (0.2 + 0.6)/2 = 0.4: h = −0.1·2/4·0.4 = −0.02, θ = 1 + 0.4 + 0.02/0.1 = 1.6;
    # then Δ = −0.2: h = −0.02 + 0.01 = −0.01, θ = 1.6 − 0.2 + 0.1 = 1.5
    strategy, ctx = FedDyn(ALPHA), server(population=4)
    state = strategy.init(START)
    clients = [(local(), moved(0.2, 1.0)), (local(examples=30), moved(0.6, 2.0))]
    state = strategy.step(state, total_of(strategy, clients), ctx)
    assert state.extra["w"].item() == pytest.approx(-0.02)
    assert state.shared["w"].item() == pytest.approx(1.6)
    assert state.shared["s"].item() == pytest.approx(6.5)
    state = strategy.step(state, total_of(strategy, [(local(), moved(-0.2)), (local(), moved(-0.2))]), ctx)
    assert state.extra["w"].item() == pytest.approx(-0.01)
    assert state.shared["w"].item() == pytest.approx(1.5)


def test_it_settles_where_the_gradients_cancel() -> None:
    """Losses (θ − 1)²/2 and 3 (θ + 1)²/2 are together least at −0.5; the mean of what each client wants alone is 0."""
    strategy, theta, kept = FedDyn(ALPHA), torch.tensor([4.0]), [{}, {}]
    state = strategy.init({"w": theta})
    for _ in range(400):
        theta, answers = state.shared["w"], []
        for number, (curve, optimum) in enumerate([(1.0, 1.0), (3.0, -1.0)]):
            ctx = local(start=theta, client_state=kept[number])
            g = kept[number].get("w", torch.zeros(1))
            solved = (curve * optimum + g + ALPHA * theta) / (curve + ALPHA)  # Algorithm 1's argmin
            answers.append((ctx, {"w": solved - theta}))
            kept[number] = dict(strategy.finish(ctx, answers[-1][1]).client_state)
        state = strategy.step(state, total_of(strategy, answers), server(population=2))
    assert state.shared["w"].item() == pytest.approx(-0.5, abs=1e-3)
