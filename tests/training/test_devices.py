"""An algorithm's two halves on two devices.

No GPU is needed: these tensors only pretend to be on one, and torch refuses to compute with tensors of different
devices all the same. What they cannot do is a backward pass, or give a number.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fedlens.strategies.base import ClientContext, RoundContext, strategies
from fedlens.training.device import gathered, repeatable
from fedlens.training.flat import FlatModel
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.optimizers.sgd import SGD
from fedlens.training.tasks.train import in_main_memory

GIVES_NUMBERS = {"qfedavg"}
"""Strategies whose client half reads a number from a tensor."""

NEEDS_FEATURES = {"fedproto", "moon"}


@pytest.fixture
def resident() -> Iterator[FlatModel]:
    """A model on a GPU that is not there."""
    # Autograd counts devices at its first backward pass; with pretended ones it starts threads, and then no later
    # test could fork.
    torch.zeros(1, requires_grad=True).sum().backward()
    with FakeTensorMode():
        module = nn.Linear(4, 3, device="cuda")
        module.to = lambda _device: module  # it is there, and pretended parameters cannot be moved in place
        yield FlatModel(module, torch.device("cuda"))


class Watching(TorchDispatchMode):
    """Keeps every tensor that is sent to another device."""

    def __init__(self, sent: list[torch.Tensor]) -> None:
        super().__init__()
        self._sent = sent

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default:
            self._sent.append(args[0])
        return func(*args, **(kwargs or {}))


def devices(*states) -> set[str]:
    return {value.device.type for state in states for value in state.values()}


def test_tensors_of_two_devices_are_told_apart(resident: FlatModel) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)cuda.*cpu"):
        resident.vector + torch.ones(15)


@pytest.mark.parametrize("name", sorted(set(strategies.names()) - GIVES_NUMBERS - NEEDS_FEATURES))
def test_a_strategy_s_client_half_takes_and_gives_what_lies_in_main_memory(resident: FlatModel, name: str) -> None:
    strategy = strategies.get(name).build({})
    shared = {key: value.cpu() for key, value in resident.state().items()}
    cohort = RoundContext(1, 1, 2, 2, resident.trainable)
    payload = strategy.broadcast(strategy.init(shared), cohort)
    private: dict[str, torch.Tensor] = {}
    for _ in range(2):  # the second time with what the client kept
        received = {key: value for key, value in payload.items() if key not in resident.names}
        ctx = ClientContext(
            1, "c", 10, 5, 0.1, 0.9, resident.vector.clone(), resident.module, 1.0, received, private,
            lambda: pytest.fail("it has no features"), resident.flatten, resident.unflatten,
        )  # fmt: skip
        correction = strategy.terms(ctx).correction
        if correction is not None:
            resident.gradient.add_(correction(resident.vector))
        sent = in_main_memory(strategy.finish(ctx, resident.delta(shared)))
        assert devices(sent.payload, sent.extra) == {"cpu"}
        private = {key: value.cpu() for key, value in sent.client_state.items()}  # as the client's store gives it back


def test_kernels_of_a_fixed_order_are_asked_for_and_no_longer_than_needed() -> None:
    before = torch.backends.cudnn.deterministic
    with pytest.raises(ZeroDivisionError), repeatable(3, torch.device("cpu")):
        assert torch.backends.cudnn.deterministic
        drawn = torch.rand(1)
        _ = 1 / 0
    assert torch.backends.cudnn.deterministic == before == False  # noqa: E712
    with repeatable(3, torch.device("cpu")):
        assert torch.equal(torch.rand(1), drawn)


def test_small_tensors_move_together_and_keep_what_they_are() -> None:
    """To a device that keeps no numbers; what they are is seen where they have been cut apart again."""
    state = {
        "channels last": torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "count": torch.tensor(7),
        "half": torch.rand(3, 1).half(),
        "large": torch.rand(1 << 18),
        "none": torch.empty(0, 2),
        "turned": torch.rand(5, 2).t(),
    }
    transfers = []
    with Watching(transfers):
        there = gathered(state, torch.device("meta"))
    assert list(there) == list(state)
    assert {name: (value.shape, value.dtype) for name, value in there.items()} == {
        name: (value.shape, value.dtype) for name, value in state.items()
    }
    assert {name for name, value in there.items() if value.device.type == "cpu"} == {"large"}
    sizes = sorted(part.numel() for part in transfers)
    assert sizes == [1, 3, 2 * 3 * 4 * 4 + 10], "one a type of number"
    whole = next(part for part in transfers if part.numel() == sizes[2])
    assert torch.equal(whole[:96].view(2, 3, 4, 4), state["channels last"])
    assert torch.equal(whole[96:].view(2, 5), state["turned"])
    assert gathered(state, torch.device("cpu"))["turned"] is state["turned"]


def test_an_optimizer_s_state_is_taken_up_from_the_store(resident: FlatModel) -> None:
    settings = SGD(momentum=0.9)
    first = VectorOptimizer(settings, {})
    first.step(resident.vector, resident.gradient, 0.1)
    kept = {name: value.cpu() for name, value in first.state().items()}
    VectorOptimizer(settings, resident.beside(kept)).step(resident.vector, resident.gradient, 0.1)
    assert devices(resident.beside({"steps": torch.zeros(())})) == {"cpu"}, "AdamW's count of steps"
