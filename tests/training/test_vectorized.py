"""Clients that train together give what they give one after the other."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import CPU, combined, infos, tiny_data
from tests.runs import run, separable
from torch import nn

import fedlens
from fedlens.aggregation.mean import WeightedMean
from fedlens.config.blocks import OPTIMIZER
from fedlens.core.client_store import ClientStore
from fedlens.core.types import ClientFailure, ClientResult, Task, TaskSettings
from fedlens.data.augment import augmentation
from fedlens.data.types import FederatedData
from fedlens.models.base import Preprocessing, Recognizer, prepare
from fedlens.models.norms import use_group_norm
from fedlens.personalization.base import Personalization, personalizations
from fedlens.privacy.accounting import Release, epsilon
from fedlens.privacy.local import SENSITIVITY, NoisyUpdate
from fedlens.privacy.noise import insecure_key, normal_from
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.runtimes.local import LocalRuntime
from fedlens.runtimes.meter import Meter
from fedlens.runtimes.worker import work
from fedlens.strategies.base import ClientUpdate, LocalTerms, RoundContext, Strategy, strategies
from fedlens.strategies.fedavg import FedAvg
from fedlens.strategies.fedprox import FedProx
from fedlens.strategies.scaffold import Scaffold
from fedlens.training import together
from fedlens.training.algorithm import Algorithm
from fedlens.training.client import ClientTrainer
from fedlens.training.flat import FlatModel
from fedlens.training.sections import MemorySection, OptimizerSection, TransferSection
from fedlens.training.settings import LocalSettings
from fedlens.training.tasks.train import MODEL_DIVERGED
from fedlens.training.together import stacks
from fedlens.training.vectorized import StackedModel

SIZES = (11, 4, 9, 1, 12)
"""Rows of the clients: with batches of 4, none of them ends as another, and one has a single row."""


def ragged(sizes: Sequence[int] = SIZES) -> FederatedData:
    data = tiny_data(clients=len(sizes), per_client=12)
    clients = (
        dataclasses.replace(client, train=client.train[:size]) for client, size in zip(data.clients, sizes, strict=True)
    )
    return dataclasses.replace(data, clients=tuple(clients))


def network(norm: str = "none", *more: nn.Module) -> Recognizer:
    """A small LeNet."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norms = [] if norm == "none" else [nn.BatchNorm2d(4)]
        backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=not norms), *norms, nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.Conv2d(4, 8, 2),
            nn.ReLU(), nn.Flatten(), *more, nn.Linear(32, 16), nn.ReLU(),
        )  # fmt: skip
        model = Recognizer(backbone, nn.Linear(16, 3), Preprocessing(8, 1))
    if norm == "group":
        use_group_norm(model)
    return model


def trainer(
    folder: Path,
    algorithm: Algorithm | Strategy | None = None,
    vectorize: int = 1,
    *,
    model: nn.Module | None = None,
    data: FederatedData | None = None,
    augment: str = "none",
    transfer: TransferSection | None = None,
    memory: MemorySection | None = None,
    **optimizer,
) -> ClientTrainer:
    """`algorithm`: a strategy alone stands for itself."""
    section = OptimizerSection(**optimizer)
    settings = LocalSettings(2, 4, OPTIMIZER.choose(section), section, memory or MemorySection())
    return ClientTrainer(
        FlatModel(model or network(), CPU),
        data or ragged(),
        algorithm if isinstance(algorithm, Algorithm) else Algorithm(algorithm or FedAvg()),
        settings,
        ClientStore(folder),
        partial(prepare, how=Preprocessing(8, 1)),
        augmentation(augment),
        transfer or TransferSection(),
        vectorize=vectorize,
    )


def trained(one: ClientTrainer, rounds: int = 2, lr: float = 0.1) -> dict[str, ClientResult | ClientFailure]:
    """The outcomes of the last round, in which all clients come again."""
    strategy = one.algorithm.strategy
    names = [client.name for client in one._data.clients]
    first = {name: value for name, value in one.model.state().items() if name in one.shared}
    state, versions, found = strategy.init(first), {}, {}
    for number in range(1, rounds + 1):
        ctx = RoundContext(number, rounds, len(names), len(names), one.model.trainable & one.shared)
        payload = strategy.broadcast(state, ctx)
        tasks = [
            Task(name, number, "train", payload, TaskSettings(lr=lr), versions.get(name), unaggregated=True)
            for name in names
        ]
        found = {outcome.client: outcome for outcome in work(one, tasks)}
        results = [found[name] for name in names if isinstance(found[name], ClientResult)]
        versions |= {result.client: number for result in results if result.report.stored}
        aggregator = one.partial_sum(number, payload)
        for result in results:
            aggregator.add(one.decode(result))
        state = strategy.step(state, aggregator.result(), ctx)
    return found


def same(alone: dict, together: dict, *, tolerance: float = 1e-4) -> None:
    """Relative to the length of each tensor of an update: the two orders of additions differ in last digits."""
    assert alone.keys() == together.keys()
    for client, one in alone.items():
        other = together[client]
        assert type(one) is type(other), client
        if isinstance(one, ClientFailure):
            assert one == other
            continue
        for name, value in {**one.payload, **one.extra}.items():
            found = {**other.payload, **other.extra}[name]
            assert (value - found).norm() <= tolerance * value.norm() + 1e-7, (client, name)
        timed = {"seconds", "data_share"}
        for name in one.report.metrics.keys() - timed:
            ours, theirs = one.report.metrics[name], other.report.metrics[name]
            assert ours.total == pytest.approx(theirs.total, rel=10 * tolerance, abs=1e-5), name
            assert ours.weight == theirs.weight, name
        assert one.report.metrics.keys() == other.report.metrics.keys()


def compared(
    tmp_path: Path,
    algorithm: Algorithm | Strategy | None = None,
    *,
    size: int = 3,
    lr: float = 0.1,
    tolerance: float = 1e-4,
    **more,
) -> tuple[dict, dict]:
    """What all clients send, alone and in stacks of `size`."""
    model = more.pop("model", network)
    alone = trainer(tmp_path / "alone", algorithm, model=model(), **more)
    together = trainer(tmp_path / "together", algorithm, size, model=model(), **more)
    assert together.vectorizing.obstacle is None
    found = trained(alone, lr=lr), trained(together, lr=lr)
    same(*found, tolerance=tolerance)
    return found


@pytest.mark.parametrize("entry", strategies.entries(), ids=lambda entry: entry.name)
def test_every_strategy(entry, tmp_path) -> None:
    compared(tmp_path, entry.build({}))


def test_they_really_train_together(tmp_path, monkeypatch) -> None:
    """In stacks of three, those with the most steps first."""
    seen: list[int] = []
    take = StackedModel.take
    monkeypatch.setattr(StackedModel, "take", lambda stack, row: (seen.append(row), take(stack, row)))
    one = trainer(tmp_path, vectorize=3)
    assert one.vectorizing.pads
    seen.clear()
    trained(one, rounds=1)
    assert seen == [0, 1, 2, 0, 1]
    tasks = [Task(f"client{index}", 1, "train", {}) for index in range(5)]
    assert [[task.client for task in stack] for stack in stacks(one, tasks)] == [
        ["client0", "client2", "client4"],
        ["client1", "client3"],
    ]


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("size", [2, 5])
def test_norms(norm: str, size: int, tmp_path) -> None:
    """BatchNorm's statistics are of one client's batch, without padding; they are part of the update."""
    compared(tmp_path, model=lambda: network(norm), size=size)


@pytest.mark.parametrize(
    "more",
    [
        {"momentum": 0.0, "weight_decay": 0.01},
        {"name": "adamw", "weight_decay": 0.01},
        {"keep": True},
        {"name": "adamw", "keep": True},
        {"clip_norm": 0.3},
        {"label_smoothing": 0.2},
    ],
    ids="-".join,
)
def test_options_of_a_step(more: dict, tmp_path) -> None:
    """Of AdamW, the first steps have the gradient's sign: where that is 0 but for rounding, they differ."""
    adamw = more.get("name") == "adamw"
    compared(tmp_path, FedProx(mu=0.1), lr=0.001 if adamw else 0.1, **more)
    kept = {path.name: load_file(path) for path in (tmp_path / "together").rglob("*2.safetensors")}
    assert bool(kept) == ("keep" in more)


@pytest.mark.parametrize("transfer", [TransferSection(probe_rounds=2), TransferSection(layer_decay=0.5)])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_frozen_layers_and_rates_by_depth(transfer: TransferSection, norm: str, tmp_path) -> None:
    _, found = compared(tmp_path, Scaffold(), model=lambda: network(norm), transfer=transfer, momentum=0.0)
    frozen = not found["client0"].payload["backbone.0.weight"].any()
    assert frozen == bool(transfer.probe_rounds)


class Pulling(Strategy):
    """A correction of all parameters, frozen ones too."""

    def terms(self, ctx) -> LocalTerms:
        return LocalTerms(correction=torch.ones_like)


def test_corrections_of_frozen_layers_do_not_add_up_in_what_is_clipped(tmp_path) -> None:
    compared(tmp_path, Pulling(), transfer=TransferSection(probe_rounds=2), clip_norm=0.3)


def test_augmented_images_are_those_of_the_loop(tmp_path) -> None:
    compared(tmp_path, augment="crop_flip")


def test_mixed_precision(tmp_path) -> None:
    compared(tmp_path, tolerance=0.05, lr=0.01, memory=MemorySection(precision="bf16"))


class Own(Strategy):
    """Has a term on the parameters that the module has, as only a loss can have."""

    adds_to_loss = True

    def terms(self, ctx) -> LocalTerms:
        factor = float(ctx.client.removeprefix("client"))

        def loss(module, inputs, logits, labels):
            again = module.head(module.backbone(inputs))
            assert len(inputs) == len(labels) == len(logits)
            return factor * 0.01 * (module.head.weight.square().sum() + (again + logits).square().mean())

        return LocalTerms(loss=loss)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_term_of_the_loss_has_the_clients_parameters(norm: str, tmp_path) -> None:
    """Its own forward pass moves running statistics too, in both ways."""
    compared(tmp_path, Own(), model=lambda: network(norm))


TOGETHER = [entry for entry in personalizations.entries() if entry.factory.train is Personalization.train]


@pytest.mark.parametrize("entry", TOGETHER, ids=lambda entry: entry.name)
def test_personalizations_whose_training_is_the_loops(entry, tmp_path) -> None:
    """What is shared, and what stays with the client."""
    compared(tmp_path, Algorithm(FedAvg(), entry.build({})), model=lambda: network("batch"))
    files = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.safetensors"))
    for file in files:
        kept, other = load_file(tmp_path / "alone" / file), load_file(tmp_path / "together" / file)
        assert kept.keys() == other.keys()
        assert all(torch.allclose(value, other[name], atol=1e-5) for name, value in kept.items())
    assert bool(files) == entry.factory.keeps_parts()


class Diverging(Strategy):
    """Client 2's parameters are no numbers after its first step."""

    def terms(self, ctx) -> LocalTerms:
        return LocalTerms(correction=lambda vector: vector * (torch.nan if ctx.client == "client2" else 0.0))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_client_that_diverges_fails_alone(norm: str, tmp_path) -> None:
    alone, together = compared(tmp_path, Diverging(), size=5, model=lambda: network(norm))
    assert {client for client, outcome in together.items() if isinstance(outcome, ClientFailure)} == {"client2"}
    assert together["client2"].reason == MODEL_DIVERGED == alone["client2"].reason


def noisy(budget: float | None = None) -> NoisyUpdate:
    return NoisyUpdate(0.5, 0.1, 1e-5, budget, lambda *place: normal_from(insecure_key(0, *place)))


def test_a_divergence_that_is_hidden_stays_so(tmp_path) -> None:
    """The client sends noise around an update of zeros, and the next one starts from its own model."""
    _, together = compared(tmp_path, Algorithm(Diverging(), privacy=noisy()), size=5)
    assert all(isinstance(outcome, ClientResult) for outcome in together.values())


def test_clients_without_budget_fail_one_by_one(tmp_path) -> None:
    """Client 0 has spent its budget before."""
    cost = epsilon({Release(0.1 / SENSITIVITY): 1}, 1e-5).value
    outcomes = []
    for folder, size in ((tmp_path / "alone", 1), (tmp_path / "together", 5)):
        one = trainer(folder, Algorithm(FedAvg(), privacy=noisy(1.01 * cost)), size)
        shared = one.model.state()
        tasks = [
            Task(f"client{index}", 2, "train", shared, TaskSettings(lr=0.1), unaggregated=True) for index in range(5)
        ]
        one.run(dataclasses.replace(tasks[0], round=1))
        outcomes.append({outcome.client: outcome for outcome in work(one, tasks)})
    same(*outcomes)
    failed = [client for client, outcome in outcomes[1].items() if isinstance(outcome, ClientFailure)]
    assert failed == ["client0"]


class Drawing(Strategy):
    """Draws from PyTorch's own generator, before and after training."""

    def terms(self, ctx) -> LocalTerms:
        drift = torch.randn(ctx.start.shape) * 0.01
        return LocalTerms(correction=lambda _: drift)

    def finish(self, ctx, delta) -> ClientUpdate:
        return ClientUpdate({name: value + torch.randn(value.shape) for name, value in delta.items()}, weight=1.0)


def test_draws_of_a_strategy_are_those_of_the_loop(tmp_path) -> None:
    compared(tmp_path, Drawing())


class Contiguous(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.contiguous()


DROPOUTS = {
    "features": lambda: network("none", nn.Dropout(0.4), nn.Dropout(0.3, inplace=True)),
    "maps": lambda: dropping(nn.Dropout(0.3)),
    "channels": lambda: dropping(nn.Dropout2d(0.3)),
    "maps that lie channel by channel": lambda: dropping(nn.Sequential(Contiguous(), nn.Dropout(0.3))),
    "beside BatchNorm": lambda: network("batch", nn.Dropout(0.4)),
    "none": lambda: network("none", nn.Dropout(0.0)),
}


def dropping(layer: nn.Module) -> Recognizer:
    """Dropout behind the first pooling, of maps (B, C, H, W)."""
    model = network()
    model.backbone.insert(2, layer)
    return model


@pytest.mark.parametrize("model", DROPOUTS.values(), ids=DROPOUTS)
def test_dropout_draws_for_each_client_what_it_draws_alone(model, tmp_path) -> None:
    compared(tmp_path, model=model)


@pytest.mark.parametrize("more", [{"algorithm": Own()}, {"algorithm": Drawing()}, {"data": ragged((1, 1, 9, 8))}])
def test_dropout_beside_other_draws_and_single_rows(more: dict, tmp_path) -> None:
    compared(tmp_path, model=DROPOUTS["features"], **more)


def test_clients_drop_other_numbers(tmp_path) -> None:
    """With the same images, order and start."""
    data = ragged((8, 8))
    first, second = data.clients
    data = dataclasses.replace(data, clients=(first, dataclasses.replace(second, train=first.train)))
    with_dropout = trained(trainer(tmp_path / "a", None, 2, model=DROPOUTS["features"](), data=data), rounds=1)
    one, other = (with_dropout[name].payload["backbone.0.weight"] for name in ("client0", "client1"))
    assert not torch.allclose(one, other, atol=1e-4)


def test_a_repeat_is_bit_identical_whatever_the_process_has_done_before(tmp_path) -> None:
    one = trainer(tmp_path / "a", vectorize=3, model=network("batch"))
    start = one.model.state()
    first = trained(one)
    one.load_shared(start)
    again, other = trained(one), trained(trainer(tmp_path / "b", vectorize=3, model=network("batch")))
    for found in (again, other):
        assert all(
            torch.equal(value, found[client].payload[name])
            for client, outcome in first.items()
            for name, value in outcome.payload.items()
        )


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_runtime(workers: int, tmp_path) -> None:
    """In this process, and in worker processes, which add updates up themselves."""
    data = ragged()
    totals = []
    for size in (1, 2, 2):
        make = partial(trainer, tmp_path, None, size, data=data)
        place = (
            LocalRuntime(infos(data), make, workers=workers, threads_per_worker=1, start_method="fork")
            if workers
            else InProcessRuntime(infos(data), make)
        )
        shared = make().model.state()
        place.submit(Task(client.name, 1, "train", shared, TaskSettings(lr=0.1)) for client in place.clients())
        totals.append(combined(place.completed(), WeightedMean()))
        place.close()
    alone, together, again = totals
    for name, value in alone.delta.items():
        assert torch.allclose(value, together.delta[name], rtol=0, atol=1e-5), name
        assert torch.equal(together.delta[name], again.delta[name])
    assert alone.weight == together.weight


def test_the_meter_counts_steps_and_clients(tmp_path) -> None:
    one, meter, seen = trainer(tmp_path, vectorize=3), Meter(), []
    tasks = [Task(f"client{index}", 1, "train", one.model.state(), TaskSettings(lr=0.1)) for index in range(5)]
    meter._changed = lambda: seen.append(tuple(meter.cells))
    list(work(one, tasks, meter))
    steps = sum(map(one.steps, tasks))
    assert seen[-1] == (5, steps, steps)
    assert {clients for clients, _, _ in seen} == {0, 3, 5}
    assert all(planned == steps for _, _, planned in seen)


def test_a_client_has_the_share_of_the_seconds_that_its_steps_have(tmp_path, monkeypatch) -> None:
    clock = itertools.count(step=9000)
    monkeypatch.setattr(together, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = trained(trainer(tmp_path, vectorize=5), rounds=1)  # 3, 1, 3, 1 and 3 steps, twice
    seconds = {client: outcome.report.metrics["seconds"].total for client, outcome in found.items()}
    thousands = {client: round(own / 1000) for client, own in seconds.items()}
    assert thousands == {"client0": 2, "client1": 1, "client2": 2, "client3": 1, "client4": 2}


def test_a_resumed_run_is_bit_identical(tmp_path) -> None:
    sizes = (30, 12, 25, 21, 18)
    clients = {f"client{index}": separable(size, index) for index, size in enumerate(sizes)}
    given = {"data": clients, "test": separable(10, 9), "model": network("batch")}
    more = (
        "runtime.vectorize=3",
        "runtime.name=in_process",
        "federated.fraction_fit=0.8",
        "strategy.name=scaffold",
        "federated.batch_size=8",
    )
    short = run(tmp_path / "a", *more, "federated.num_rounds=1", **given)
    resumed = fedlens.resume(short.folder, "federated.num_rounds=3", show=False, **{**given, "model": network("batch")})
    whole = run(tmp_path / "b", *more, **{**given, "model": network("batch")})
    tensors = whole.model.state_dict()
    assert all(torch.equal(value, tensors[name]) for name, value in resumed.model.state_dict().items())
