"""Gradients from tensors that keep their place are those of the loop. No GPU is needed: what a CUDA graph would replay
is computed here, and its calls are compared with PyTorch's own signatures."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import create_autospec, patch

import pytest
import torch
from tests.helpers import CPU, tiny_data
from tests.runs import Clothes, separable
from tests.training.test_vectorizable import WITH_TEXTS, Centred, Remembering, own_loss
from tests.training.test_vectorized import network, trained, trainer
from torch import Tensor, nn

import fedlens
from fedlens.core.types import ClientResult
from fedlens.models.base import Recognizer
from fedlens.personalization.fedrep import FedRep
from fedlens.privacy.base import Federation
from fedlens.privacy.example import Example
from fedlens.strategies.base import LocalTerms, strategies
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.client import ClientTrainer
from fedlens.training.cuda_graphs import WARM_UPS, CudaGraphs, Play
from fedlens.training.examples import Batch
from fedlens.training.flat import FlatModel
from fedlens.training.graphable import can_pad, obstacle
from fedlens.training.loop import LocalLoop
from fedlens.training.sections import MemorySection, OptimizerSection, TransferSection
from fedlens.training.settings import LocalSettings
from fedlens.training.static_steps import PATIENCE, StaticSteps

SETTINGS = LocalSettings(batch_size=8)
NORMS = ("none", "group", "batch")


def batch(rows: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, 1, 8, 8, generator=generator).contiguous(memory_format=torch.channels_last)
    return inputs, torch.randint(3, (rows,), generator=generator)


def gradient(model: nn.Module, settings: LocalSettings, given: Batch, steps: StaticSteps | None = None) -> Tensor:
    """What the loop computes of a batch: the gradient, the loss, which rows were recognised, and running statistics.
    With `steps`, their model is used."""
    flat = FlatModel(model, CPU) if steps is None else steps._model
    loop = LocalLoop(flat, settings, LocalTerms(), plain_step=steps)
    loop.differentiate(*given, torch.Generator())
    return torch.cat(
        [flat.gradient, loop._tally.losses[0][None], loop._tally.correct[0].float(), *_floats(flat.statistics())]
    )


def _floats(state: dict[str, Tensor]) -> list[Tensor]:
    return [value.flatten() for value in state.values()]


def steps_of(model: nn.Module, settings: LocalSettings = SETTINGS, **given) -> StaticSteps:
    return StaticSteps(FlatModel(model, CPU), settings, **{"pads": True, "graphs": None, **given})


class Replays:
    """In place of CUDA graphs: what is captured is computed when it is replayed."""

    def __init__(self, *, pays: bool = True) -> None:
        self.captured = self.replayed = 0
        self._pays = pays

    def capture(self, compute: Play) -> Play:
        for _ in range(WARM_UPS):
            compute()
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            compute()

        return replay

    def pays(self, replay: Play, compute: Play) -> bool:
        replay()
        compute()
        return self._pays


# -- one step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_whole_batch_has_the_loop_s_gradient_loss_and_recognised_rows(norm: str, smoothing: float) -> None:
    settings = dataclasses.replace(SETTINGS, training=OptimizerSection(label_smoothing=smoothing))
    for seed in range(3):
        steps = steps_of(network(norm), settings, pads=False)
        found = gradient(network(norm), settings, batch(8, seed), steps)
        assert torch.equal(found, gradient(network(norm), settings, batch(8, seed)))
        assert len(steps._steps) == 1


@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize(("rows", "width"), [(7, 8), (5, 8), (4, 4), (3, 4), (2, 2), (1, 1)])
def test_a_smaller_batch_is_filled_up_and_has_its_own_gradient(norm: str, rows: int, width: int) -> None:
    """Also after another batch, of which nothing is left."""
    settings = dataclasses.replace(SETTINGS, training=OptimizerSection(label_smoothing=0.1))
    steps = steps_of(network(norm), settings)
    gradient(network(norm), settings, (batch(width)[0] * torch.nan, batch(width)[1]), steps)
    found = gradient(network(norm), settings, batch(rows, 1), steps)
    assert torch.allclose(found, gradient(network(norm), settings, batch(rows, 1)), atol=1e-6)
    ((place, _, _),) = steps._steps
    assert place == width


def test_a_batch_whose_rows_depend_on_each_other_is_not_filled_up() -> None:
    steps = steps_of(network("batch"), pads=False)
    assert steps(*batch(7)) is None
    assert steps(*batch(9)) is None, "nor is one that is larger than the batch size"
    assert steps(*batch(8)) is not None


def test_clipping_comes_after_the_step() -> None:
    settings = dataclasses.replace(SETTINGS, training=OptimizerSection(clip_norm=0.01))
    steps = steps_of(network(), settings)
    LocalLoop(steps._model, settings, LocalTerms(), plain_step=steps).differentiate(*batch(8), torch.Generator())
    assert float(steps._model.gradient.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("terms", "moved"),
    [
        (LocalTerms(loss=lambda *_: torch.zeros(())), None),
        (LocalTerms(features=lambda *_: torch.zeros(())), None),
        (LocalTerms(), []),
    ],
    ids=["loss", "features", "moved"],
)
def test_what_is_more_than_a_plain_step_is_computed_as_ever(terms: LocalTerms, moved: list | None) -> None:
    model = FlatModel(network(), CPU)
    loop = LocalLoop(model, SETTINGS, terms, moved, plain_step=lambda *_: pytest.fail("it is not plain"))
    assert loop.differentiate(*batch(8), torch.Generator())


# -- captures ----------------------------------------------------------------------------------------------------------


def test_a_step_is_captured_once_for_all_batches_of_its_width_and_leaves_no_trace() -> None:
    """Dropout draws on, running statistics count each batch once, and parameters stay."""
    captured, computed = Replays(), None
    found = []
    for graphs in (captured, computed):
        torch.manual_seed(5)
        steps = steps_of(network("batch", nn.Dropout(0.5)), pads=False, graphs=graphs)
        drawn = [gradient(steps._model.module, SETTINGS, batch(8), steps) for _ in range(2 * PATIENCE)]
        found.append([*drawn, torch.get_rng_state(), *steps._model.module.state_dict().values()])
    assert captured.captured == 1
    assert captured.replayed == PATIENCE + 2, "once to compare the gradient, once to compare the time"
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert not torch.equal(found[0][0], found[0][1]), "draws differ from step to step"


class Wrong(Replays):
    """Gives another gradient."""

    def __init__(self, model: FlatModel) -> None:
        super().__init__()
        self._model = model

    def capture(self, compute: Play) -> Play:
        replay = super().capture(compute)

        def other() -> None:
            replay()
            self._model.gradient.add_(1.0)

        return other


class Full(Replays):
    def capture(self, compute: Play) -> Play:
        super().capture(compute)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Moving(nn.Module):
    """Has a tensor of its own in another place after each batch, where a replay would not look for it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        self.seen = self.seen + 1
        return values


@pytest.mark.parametrize(
    ("make", "module"),
    [
        (Wrong, nn.Identity()),
        (lambda _: Full(), nn.Identity()),
        (lambda _: Replays(pays=False), nn.Identity()),
        (lambda _: Replays(), Moving()),
    ],
    ids=["wrong", "full", "slower", "moving"],
)
def test_where_a_replay_is_not_right_or_not_faster_the_step_is_computed(make, module: nn.Module) -> None:
    model = FlatModel(network("none", module), CPU)
    graphs = make(model)
    steps = StaticSteps(model, SETTINGS, pads=True, graphs=graphs)
    for seed in range(PATIENCE + 1):
        found = gradient(model.module, SETTINGS, batch(8, seed), steps)
        assert torch.equal(found, gradient(network(), SETTINGS, batch(8, seed)))
    before = graphs.replayed
    gradient(model.module, SETTINGS, batch(8), steps)
    assert graphs.replayed == before
    assert graphs.captured == 1
    if isinstance(module, Moving):
        assert float(module.seen) == PATIENCE + 2, "the batches, without warm-ups"


def test_the_calls_of_cuda_graphs_are_pytorch_s() -> None:
    """No GPU is needed: each call is compared with the signature of what it stands for."""
    calls: list[str] = []
    names = ("Stream", "CUDAGraph", "graph", "Event", "stream", "device", "current_stream", "graph_pool_handle")
    modes: list[str] = []
    with ExitStack() as stack:
        fakes = {
            name: stack.enter_context(patch.object(torch.cuda, name, create_autospec(getattr(torch.cuda, name))))
            for name in names
        }
        for name, value in {"mem_get_info": (10, 20), "memory_reserved": 5, "get_sync_debug_mode": 0}.items():
            fake = stack.enter_context(patch.object(torch.cuda, name, create_autospec(getattr(torch.cuda, name))))
            fake.return_value = value
            fakes[name] = fake
        stack.enter_context(patch.object(torch.cuda, "set_sync_debug_mode", modes.append))
        fakes["Event"].return_value.elapsed_time.side_effect = [1.0, 2.0]
        fakes["graph"].return_value.__enter__.side_effect = lambda *_: calls.append("capturing")
        graphs = CudaGraphs(torch.device("cuda:1"), timed=True)
        replay = graphs.capture(lambda: calls.append("computed"))
        assert graphs.pays(replay, lambda: None)
        assert replay == fakes["CUDAGraph"].return_value.replay
        assert calls == [*["computed"] * WARM_UPS, "capturing", "computed"]
        assert modes == ["error", 0], "waiting for the GPU is an error before the capture, not in it"
        with pytest.raises(RuntimeError, match="draws at random on the processor"):
            graphs.capture(lambda: torch.rand(1))
        fakes["memory_reserved"].return_value = 11
        with pytest.raises(RuntimeError, match="no room"):
            graphs.capture(lambda: None)
        assert CudaGraphs(torch.device("cuda"), timed=False).capture(lambda: None)


# -- whole clients -----------------------------------------------------------------------------------------------------


def with_static_steps(one: ClientTrainer, graphs: Replays | None = None) -> ClientTrainer:
    """As on a GPU."""
    pads = can_pad(one.model, one.settings, one._some)
    one.static_steps = StaticSteps(one.model, one.settings, pads=pads, graphs=graphs)
    return one


RUNS = {
    **{name: {"algorithm": strategies.get(name).build({})} for name in strategies.names() if name != "fedproto"},
    "clipped": {"clip_norm": 0.5, "label_smoothing": 0.1},
    "momentum": {"momentum": 0.9, "weight_decay": 0.01, "keep": True},
    "adamw": {"name": "adamw", "lr": 0.01},
    "batch norm": {"model": network("batch")},
    "group norm": {"model": network("group")},
    "rates by depth": {"transfer": TransferSection(layer_decay=0.5)},
    "phases": {"algorithm": Algorithm(FedAvg(), FedRep())},
    "augmented": {"augment": "crop_flip"},
    "bf16": {"memory": MemorySection(precision="bf16")},
}


@pytest.mark.parametrize("name", RUNS)
def test_clients_train_as_they_do_in_the_loop(name: str, tmp_path: Path) -> None:
    """Two rounds of clients whose last batches have other sizes."""
    graphs = Replays()
    given = RUNS[name]
    lr = 0.01 if name in ("adamw", "qfedavg") else 0.1
    model = given.get("model") or network()
    first = {key: value.clone() for key, value in model.state_dict().items()}
    ever = trained(trainer(tmp_path / "ever", **{**given, "model": model}), lr=lr)
    model.load_state_dict(first)
    one = with_static_steps(trainer(tmp_path / "static", **{**given, "model": _again(model, first)}), graphs)
    static = trained(one, lr=lr)
    assert (graphs.replayed == 0) == (name == "phases"), "of which each trains a part of the model"
    assert graphs.captured == {"batch norm": 1, "phases": 0}.get(name, 2), "widths 4 and 1, and no client more"
    for client, result in ever.items():
        other = static[client]
        assert isinstance(result, ClientResult)
        assert isinstance(other, ClientResult)
        close = {"rtol": 1e-3, "atol": 2e-2 if name == "bf16" else 2e-5}
        for key, value in result.payload.items():
            assert torch.allclose(value, other.payload[key], **close), (client, key)
        metrics, others = result.report.metrics, other.report.metrics
        for key in ("loss", "accuracy", "loss_before", "loss_after"):
            assert others[key].total == pytest.approx(metrics[key].total, rel=2e-2 if name == "bf16" else 1e-3), key
            assert others[key].weight == metrics[key].weight


def _again(model: nn.Module, first: dict[str, Tensor]) -> Recognizer:
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm)]
    name = "none" if not norms else "batch" if isinstance(norms[0], nn.BatchNorm2d) else "group"
    again = network(name)
    again.load_state_dict(first)
    return again


# -- what can be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "pads"),
    [
        (network, True),
        (lambda: network("group"), True),
        (lambda: network("batch"), False),
        (lambda: network("none", Centred()), False),
        (lambda: network("none", nn.Dropout(0.5)), False),
        (lambda: network("none", Remembering()), False),
    ],
    ids=["plain", "group", "batch", "own", "dropout", "remembering"],
)
def test_whether_batches_can_be_filled_up_is_tried_without_a_trace(model, pads: bool, tmp_path: Path) -> None:
    built = model()
    nn.init.zeros_(built.head.weight)
    one = trainer(tmp_path, model=built)
    before, draws = {key: value.clone() for key, value in built.state_dict().items()}, torch.get_rng_state()
    assert can_pad(one.model, one.settings, one._some) is pads
    assert all(torch.equal(value, before[key]) for key, value in built.state_dict().items())
    assert torch.equal(draws, torch.get_rng_state())


OBSTACLES = {
    "privacy": ({"algorithm": Algorithm(FedAvg(), dp_sgd=Example().dp_sgd(Federation(3, rounds=1, fraction=1.0)))},),
    "objective": ({"model": own_loss()},),
    "texts": ({"data": WITH_TEXTS},),
    "fp16": ({"memory": MemorySection(precision="fp16")},),
    "pieces": ({"memory": MemorySection(micro_batch=2)},),
    "checkpointing": ({"memory": MemorySection(gradient_checkpointing=True)},),
    "mixup": ({"mixup": 0.2},),
    "unfreezing": ({"transfer": TransferSection(unfreeze_every=1)},),
    "probing": ({"transfer": TransferSection(probe_rounds=1)},),
}


@pytest.mark.parametrize("name", [None, *OBSTACLES])
def test_what_is_no_plain_step_is_known_before_the_first(name: str | None, tmp_path: Path) -> None:
    one = trainer(tmp_path, **(OBSTACLES[name][0] if name else {}))
    assert one.static_steps is None
    assert "need an NVIDIA GPU, and this is cpu" in str(one.no_graph)
    one.model.device = torch.device("cuda")
    found = obstacle(one.model, one.algorithm, one.settings, one._data, one._transfer)
    assert (found is None) == (name is None), found


def test_few_images_are_not_enough_to_know_that_batches_can_be_filled_up(tmp_path: Path) -> None:
    one = trainer(tmp_path, data=tiny_data(1, 4))
    assert not can_pad(one.model, one.settings, one._some)


@pytest.mark.parametrize(
    ("asked", "more", "text"),
    [
        ("auto", (), None),
        ("true", (), "runtime.device: CUDA graphs need an NVIDIA GPU, and this is cpu"),
        ("true", ("runtime.vectorize=2",), "runtime.vectorize trains clients together"),
    ],
    ids=["auto", "device", "together"],
)
def test_a_note_says_once_that_a_graph_that_was_asked_for_is_not_to_be_had(
    asked: str, more: tuple[str, ...], text: str | None, tmp_path, capsys
) -> None:
    clients = {f"client{index}": separable(20, index) for index in range(2)}
    settings = (f"runtime.graph={asked}", "runtime.name=in_process", "federated.num_rounds=1", "runtime.device=cpu")
    given = {"data": clients, "test": separable(10, 9), "model": Clothes()}
    fedlens.run(None, *settings, *more, f"tracking.dir={tmp_path}", "tracking.tensorboard=false", **given)
    shown = capsys.readouterr()
    told = " ".join((shown.out + shown.err).split())
    assert told.count("runtime.graph=true has no effect") == (text is not None)
    assert text is None or text in told
