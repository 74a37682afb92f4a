"""SCAFFOLD's control variates against the gradients of the same training done again, and the server by hand."""

import pytest
import torch
from tests.strategies.clients import START, local, moved, received, server, total_of
from tests.strategies.replay import Replay, close, parameters, settings, steps

from fedlens.core.types import prefixed
from fedlens.strategies.base import ServerState
from fedlens.strategies.scaffold import Scaffold


def mean_gradient(seen: list[dict[str, torch.Tensor]], momentum: float) -> dict[str, torch.Tensor]:
    """Each step's gradient as often as it moves the model: 1 + ρ + ρ² … for every step from its own on."""
    counts = [sum(momentum**later for later in range(len(seen) - step)) for step in range(len(seen))]
    weighted = lambda name: sum(n * gradients[name] for n, gradients in zip(counts, seen, strict=True))  # noqa: E731
    return {name: weighted(name) / sum(counts) for name in seen[0]}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_client_s_variate_is_its_mean_gradient_and_corrects_every_step(momentum: float, tmp_path) -> None:
    how = settings(momentum)
    replay = Replay(Scaffold(), tmp_path, how)
    zero = {name: torch.zeros_like(replay.model[name]) for name in replay.trainable}
    first = replay.train(1, {**replay.model, **prefixed("c", zero)})
    _, seen = replay.again(1, replay.model)
    assert len(seen) == steps(how) == 6
    own = replay.kept(1)
    close(own, mean_gradient(seen, momentum))
    close(first.extra, prefixed("c", own))

    everybodys = {name: torch.full_like(value, 0.02) for name, value in zero.items()}
    second = replay.train(2, {**replay.model, **prefixed("c", everybodys)}, store_version=1)
    drift = {name: everybodys[name] - own[name] for name in own}
    module, seen = replay.again(2, replay.model, gradient=drift)
    after = {name: replay.model[name] + second.payload[name] for name in own}
    close(after, parameters(module))
    close(replay.kept(2), mean_gradient(seen, momentum))
    close(second.extra, prefixed("c", {name: replay.kept(2)[name] - own[name] for name in own}))


def test_the_server_steps_by_the_plain_mean_and_moves_c_by_the_share_that_took_part() -> None:
    # Δ = (0.2 + 0.6)/2 = 0.4 although the second has three times the images; x = 1 + 0.5·0.4.
    # c_i⁺ = 0 − 0 − Δ_i/(0.5·2): −0.2 and −0.6; c = 2/4 · −0.4
    strategy = Scaffold(server_lr=0.5)
    first = strategy.init(START)
    clients = [(local(steps=2), moved(0.2, 1.0)), (local(steps=2, examples=30), moved(0.6, 2.0))]
    after = strategy.step(first, total_of(strategy, clients), server(population=4))
    assert after.shared["w"].item() == pytest.approx(1.2)
    assert after.shared["s"].item() == pytest.approx(6.5)
    assert after.extra["w"].item() == pytest.approx(-0.2)


def test_what_clients_receive_is_c_of_what_they_train() -> None:
    state = ServerState(START, {"w": torch.tensor([0.3]), "s": torch.tensor([0.0])})
    extra = received(Scaffold(), state, server())
    assert list(extra) == ["c/w"]
    drift = Scaffold().terms(local(received=extra, client_state={"w": torch.tensor([0.1])})).correction
    assert drift is not None
    assert drift(torch.tensor([7.0])).item() == pytest.approx(0.2)
