"""An algorithm's two halves on two devices.

No GPU is needed: these tensors only pretend to be on one, and torch refuses to compute with tensors of different
devices all the same. What they cannot do is a backward pass, or give a number.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from tests.helpers import tiny_data, tiny_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fedlens.core.client_store import ClientStore
from fedlens.core.types import PartialSum, Task, TaskSettings
from fedlens.data.augment import crop_flip, flip
from fedlens.models.base import Preprocessing, prepare
from fedlens.privacy.bounded import BoundedUpdate
from fedlens.runtimes.worker import work
from fedlens.strategies.base import ClientContext, RoundContext, strategies
from fedlens.training import client, examples, loop
from fedlens.training.algorithm import Algorithm
from fedlens.training.client import ClientTrainer
from fedlens.training.device import gathered, in_main_memory, repeatable
from fedlens.training.flat import FlatModel
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.optimizers.sgd import SGD
from fedlens.training.settings import LocalSettings
from fedlens.training.tasks import train

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


# -- a whole round -----------------------------------------------------------------------------------------------------

DATA = tiny_data(clients=3)
GPU = torch.device("cuda")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """A GPU that is not there, which holds no numbers: reading one is an error, but in the places counted here.
    What a GPU does apart from tensors is left out, the backward pass, and
    the disk."""
    counted: Counter[str] = Counter()

    def reads(place: str, value: object) -> object:
        counted[place] += 1
        return value

    for module in (loop, client):
        monkeypatch.setattr(module, "read", lambda *numbers: reads("numbers", [1.0] * len(numbers)))
    monkeypatch.setattr(train, "all_finite", lambda _: reads("finite", True))
    monkeypatch.setattr(FlatModel, "is_finite", lambda _: reads("finite", True))
    monkeypatch.setattr(client, "repeatable", lambda *_: nullcontext())
    monkeypatch.setattr(loop.LocalLoop, "_pull_back", lambda *_: None)
    monkeypatch.setattr(ClientStore, "save", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 30, 1 << 30))
    torch.zeros(1, requires_grad=True).sum().backward()  # as in `resident`
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield counted


def on_the_gpu(folder, algorithm: Algorithm, settings: LocalSettings) -> ClientTrainer:
    with torch.device("cuda"):
        module = tiny_model()
    module.to = lambda _device: module
    inputs = partial(prepare, how=Preprocessing(8, 1))
    return ClientTrainer(FlatModel(module, GPU), DATA, algorithm, settings, ClientStore(folder), inputs, flip)


class Crossing(TorchDispatchMode):
    """Counts what is copied between main memory and the GPU: bytes by direction."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        pair = args[1::-1] if func is torch.ops.aten.copy_.default else (args[0], out) if args else ()
        if len(pair) == 2 and all(isinstance(one, Tensor) for one in pair) and pair[0].device != pair[1].device:
            self.copies.append((pair[1].device.type, pair[1].nbytes))
        return out


def sent_to(strategy, trainer: ClientTrainer) -> dict[str, Tensor]:
    shared = {name: value.cpu() for name, value in trainer.model.state().items()}
    trained = trainer.model.trainable
    return dict(strategy.broadcast(strategy.init(shared), RoundContext(1, 1, 3, 3, trained)))


@pytest.mark.parametrize("privacy", [None, BoundedUpdate(1.0)])
def test_a_round_stays_on_the_device_until_its_one_sum_comes_back(waits, tmp_path, monkeypatch, privacy) -> None:
    if privacy is not None:  # which reads a norm where it clips, and where it clips again
        monkeypatch.setattr("fedlens.privacy.clipping.exact_norm", lambda _: 2.0)
    strategy = strategies.get("fedavg").build({})
    settings = LocalSettings(epochs=3, batch_size=4, optimizer=SGD(momentum=0.9))
    trainer = on_the_gpu(tmp_path, Algorithm(strategy, directions=True, privacy=privacy), settings)
    payload = sent_to(strategy, trainer)
    crossing = Crossing()
    with crossing:
        outcomes = list(
            work(trainer, [Task(f"client{n}", 1, "train", payload, TaskSettings(lr=0.1)) for n in range(3)])
        )
    (total,) = outcomes
    assert isinstance(total, PartialSum)
    assert {report.client for report in total.reports} == {"client0", "client1", "client2"}
    assert devices(total.payload, total.extra) == {"cpu"}
    assert waits == {"numbers": 2 * 3, "finite": 3 * 3}, "after a client's nine steps, and none in them"
    model = sum(value.nbytes for value in payload.values())
    down = sum(size for kind, size in crossing.copies if kind == "cuda")
    draws = 3 * 3 * (12 * 8 + 12 + 8)  # of three clients and epochs: row numbers, mirrored images, sizes of batches
    assert model <= down <= model + 2 * draws, "the model once, not once a client; images not at all"
    up = [size for kind, size in crossing.copies if kind == "cpu"]
    assert sum(up) <= sum(value.nbytes for value in (*total.payload.values(), *total.extra.values()))


@pytest.mark.parametrize("name", sorted(set(strategies.names()) - GIVES_NUMBERS - {"fedproto"}))
def test_a_strategy_s_steps_do_not_wait_for_the_device(waits, tmp_path, name: str) -> None:
    strategy = strategies.get(name).build({})
    trainer = on_the_gpu(
        tmp_path, Algorithm(strategy), LocalSettings(epochs=2, batch_size=4, optimizer=SGD(momentum=0.5))
    )
    task = Task("client0", 1, "train", sent_to(strategy, trainer), TaskSettings(lr=0.1))
    list(work(trainer, [task]))
    assert waits["numbers"] == 2


def test_reading_ahead_changes_neither_batches_nor_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """As images come to a GPU that has no room for all of them."""
    own = examples.Examples(DATA, DATA.clients[0].train, lambda images: images.float(), torch.device("cpu"), crop_flip)

    def batches() -> list[examples.Batch]:
        return list(own.epochs(3, 5, torch.Generator().manual_seed(1)))

    plain = batches()
    read = []
    monkeypatch.setattr(
        examples,
        "map",
        lambda make, parts: examples.ahead(lambda part: read.append(part) or make(part), parts),
        raising=False,
    )
    for (inputs, labels), (same, truth) in zip(plain, batches(), strict=True):
        assert torch.equal(inputs, same)
        assert torch.equal(labels, truth)
    assert len(read) == len(plain) == 9


def test_one_batch_is_read_ahead_and_no_more() -> None:
    read: list[int] = []

    def reading(part: Tensor) -> examples.Batch:
        read.append(int(part))
        return part, part

    coming = examples.ahead(reading, map(torch.tensor, itertools.count()))
    assert [int(next(coming)[0]) for _ in range(3)] == [0, 1, 2]
    coming.close()
    assert max(read) <= 4
