"""Every runtime over every strategy gives the same run; and what only worker processes can do wrong."""

import ctypes
import multiprocessing
import os
import signal
import struct
import threading
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.flower.processes import until
from tests.helpers import infos, tiny_data, tiny_trainer

from fedlens.aggregation.base import rules
from fedlens.core.types import State, Task, TaskSettings, prefixed
from fedlens.errors import OutOfMemory, RuntimeFailure
from fedlens.federation.rounds.synchronous import aggregate
from fedlens.personalization.base import personalizations
from fedlens.runtimes import local, wire
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.runtimes.local import LocalRuntime, may_inherit, share_out
from fedlens.strategies.base import ClientContext, ClientUpdate, RoundContext, Strategy, strategies
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.settings import LocalSettings

DATA = tiny_data(clients=5)
SETTINGS = LocalSettings(batch_size=4, epochs=2)
TOLERANCE = 1e-5


def runtime(name: str, strategy, folder, workers: int = 2, start_method: str = "fork"):
    make = partial(tiny_trainer, strategy, DATA, folder, SETTINGS)
    if name == "in_process":
        return InProcessRuntime(infos(DATA), make)
    return LocalRuntime(infos(DATA), make, workers=workers, threads_per_worker=1, start_method=start_method)


def three_rounds(place, algorithm):
    """The shared state before and after three rounds of everybody, and the last version that each client keeps."""
    trainer = tiny_trainer(algorithm, DATA, None, SETTINGS)
    strategy = trainer.algorithm.strategy
    first = {name: value for name, value in trainer.model.state().items() if name in trainer.shared}
    state = strategy.init(first)
    versions: dict[str, int] = {}
    try:
        for number in range(1, 4):
            ctx = RoundContext(number, 3, 5, 5, trainer.model.trainable & trainer.shared)
            payload = strategy.broadcast(state, ctx)
            clients = [client.name for client in place.clients()]
            place.submit(
                Task(name, number, "train", payload, TaskSettings(lr=0.1), versions.get(name)) for name in clients
            )
            reports, _ = aggregate(place.completed(), aggregator := trainer.partial_sum(1, {}))
            versions |= {report.client: number for report in reports if report.stored}
            state = strategy.step(state, aggregator.result(), ctx)
    finally:
        place.close()
    return first, state.shared, versions


def same(runs, others) -> None:
    """What two runtimes made of the same federation. It moved, so that a difference would be seen: a tolerance of a
    thousandth of that holds for strategies whose steps are small, too."""
    first, alone, _ = runs
    moved = {name: float((value - first[name]).abs().max()) for name, value in alone.items()}
    assert any(moved.values())
    for name, value in alone.items():
        assert torch.allclose(value, others[1][name], rtol=0, atol=min(TOLERANCE, moved[name] / 1000)), name


@pytest.mark.parametrize("entry", strategies.entries(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_strategy_is_the_same_in_worker_processes(entry, workers: int, tmp_path) -> None:
    strategy = entry.build({})
    alone = three_rounds(runtime("in_process", strategy, tmp_path / "a"), strategy)
    same(alone, three_rounds(runtime("local", strategy, tmp_path / "b", workers), strategy))


BEAR_FIVE = [entry for entry in rules.entries() if entry.build({}).incompatibility(len(DATA.clients)) is None]


@pytest.mark.parametrize("entry", BEAR_FIVE, ids=lambda entry: entry.name)
@pytest.mark.parametrize("workers", [1, 2])
def test_every_rule_is_the_same_in_worker_processes(entry, workers: int, tmp_path) -> None:
    algorithm = Algorithm(FedAvg(), rule=entry.build({}))
    alone = three_rounds(runtime("in_process", algorithm, tmp_path / "a"), algorithm)
    same(alone, three_rounds(runtime("local", algorithm, tmp_path / "b", workers), algorithm))


@pytest.mark.parametrize("entry", personalizations.entries(), ids=lambda entry: entry.name)
def test_every_personalisation_is_the_same_in_worker_processes(entry, tmp_path) -> None:
    """What is shared, and what each client keeps."""
    algorithm = Algorithm(FedAvg(), entry.build({}))
    alone = three_rounds(runtime("in_process", algorithm, tmp_path / "a"), algorithm)
    shared_out = three_rounds(runtime("local", algorithm, tmp_path / "b"), algorithm)
    if entry.factory.shares:
        same(alone, shared_out)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.safetensors"))
    assert alone[2] == shared_out[2]
    assert len(files) == 3 * len(alone[2]), "a file for each result that says that something is kept"
    assert alone[2] or not entry.factory.keeps_parts()
    for file in files:
        kept, other = load_file(tmp_path / "a" / file), load_file(tmp_path / "b" / file)
        assert all(torch.allclose(value, other[name], atol=TOLERANCE) for name, value in kept.items())


class Talkative(Strategy):
    """Sends all that its hooks let it have: where it began, where it ended, and what it keeps."""

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        whole = ctx.unflatten(ctx.start) | prefixed("end", ctx.unflatten(ctx.start + ctx.flatten(delta)))
        return ClientUpdate(
            delta, 1.0, extra=prefixed("c", whole), client_state=prefixed("own", ctx.unflatten(ctx.start))
        )


class Together(Strategy):
    """Every client waits until the other worker has come as far, and then sends more than a pipe holds."""

    def __init__(self) -> None:
        self._met = multiprocessing.get_context("fork").Barrier(2)

    def finish(self, ctx: ClientContext, delta: State) -> ClientUpdate:
        self._met.wait(20)
        return ClientUpdate(delta, 1.0, extra={"large": torch.zeros(1 << 20)})


def test_workers_train_side_by_side_when_every_result_is_sent(tmp_path) -> None:
    """The second client of one worker and that of the other can only meet if nobody's first result had to wait for the
    other's last one."""
    place = runtime("local", Together(), tmp_path)
    names = [client.name for client in place.clients()][:4]
    trainer = tiny_trainer(FedAvg(), DATA, None, SETTINGS)
    payload = {name: value for name, value in trainer.model.state().items() if name in trainer.shared}
    try:
        place.submit(Task(name, 1, "train", payload, TaskSettings(lr=0.1), unaggregated=True) for name in names)
        assert sorted(outcome.client for outcome in place.completed()) == names
    finally:
        place.close()


def overheard(monkeypatch) -> bytearray:
    """All bytes that this process reads from its workers, as they come."""
    heard = bytearray()
    whole, into = Connection.recv_bytes, Connection.recv_bytes_into

    def read(connection: Connection) -> bytes:
        message = whole(connection)
        heard.extend(message)
        return message

    def read_into(connection: Connection, buffer: bytearray) -> int:
        size = into(connection, buffer)
        heard.extend(buffer[:size])
        return size

    monkeypatch.setattr(Connection, "recv_bytes", read)
    monkeypatch.setattr(Connection, "recv_bytes_into", read_into)
    return heard


@pytest.mark.parametrize("name", [one.name for one in personalizations.entries() if one.factory.keeps_parts()])
def test_private_parts_do_not_leave_the_worker(name: str, tmp_path, monkeypatch) -> None:
    """Names and bytes of all that a worker process sends, control variates of a strategy among them."""
    algorithm = Algorithm(Talkative(), personalizations.get(name).build({}))
    trainer = tiny_trainer(algorithm, DATA, None, SETTINGS)
    private = trainer.model.names - trainer.shared
    shared = {key: value for key, value in trainer.model.state().items() if key in trainer.shared}
    sent = overheard(monkeypatch)
    place = runtime("local", algorithm, tmp_path, workers=1)
    place.submit([Task("client0", 1, "train", shared, TaskSettings(lr=0.1))])
    (partial_sum,) = place.completed()
    place.submit([Task("client0", 1, "evaluate", shared, TaskSettings(lr=0.1), 1)])
    (answer,) = place.completed()
    place.close()
    assert partial_sum.payload.keys() == trainer.shared
    assert {key.rpartition("/")[2] for key in partial_sum.extra} == trainer.shared & trainer.model.trainable
    assert (answer.payload, answer.extra) == ({}, {})
    (file,) = tmp_path.rglob("*.safetensors")
    kept = load_file(file)
    assert {key.removeprefix("private/") for key in kept if key.startswith("private/")} == private
    for key in private:
        assert kept[f"private/{key}"].numpy().tobytes() not in sent, key
    for key in trainer.shared:
        assert partial_sum.payload[key].numpy().tobytes() in sent, "the test sees what is sent"


def test_a_repeat_is_bit_identical(tmp_path) -> None:
    _, once, _ = three_rounds(runtime("local", FedAvg(), tmp_path / "a"), FedAvg())
    _, again, _ = three_rounds(runtime("local", FedAvg(), tmp_path / "b"), FedAvg())
    assert all(torch.equal(value, again[name]) for name, value in once.items())


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_of_several_models_come_back_one_by_one(workers: int, tmp_path) -> None:
    """As asynchronous schedules give them out: each with the model that it starts from, and no worker's sum."""
    first = tiny_trainer(FedAvg(), DATA, None, SETTINGS).model.state()
    models = [{name: value + 0.1 * step for name, value in first.items()} for step in range(3)]
    places = runtime("in_process", FedAvg(), tmp_path / "a"), runtime("local", FedAvg(), tmp_path / "b", workers)
    found = []
    for place in places:
        tasks = [
            Task(client.name, 1 + index % 3, "train", models[index % 3], TaskSettings(lr=0.1), unaggregated=True)
            for index, client in enumerate(place.clients())
        ]
        place.submit(tasks)
        found.append({answer.client: answer for answer in place.completed()})
        place.close()
    alone, shared_out = found
    assert len(alone) == len(shared_out) == 5
    for client, answer in alone.items():
        assert shared_out[client].round == answer.round
        for name, value in answer.payload.items():
            assert torch.equal(shared_out[client].payload[name], value), (client, name)
    assert not torch.equal(alone["client0"].payload["head.bias"], alone["client1"].payload["head.bias"])


def test_processes_that_inherit_nothing_give_the_same(tmp_path) -> None:
    _, forked, _ = three_rounds(runtime("local", FedAvg(), tmp_path / "a"), FedAvg())
    _, spawned, _ = three_rounds(runtime("local", FedAvg(), tmp_path / "b", start_method="spawn"), FedAvg())
    assert all(torch.equal(value, spawned[name]) for name, value in forked.items())


def test_a_process_whose_threads_would_be_missed_is_not_copied() -> None:
    """PyTorch names its threads so where there is a GPU; here another thread bears the name."""
    named, over = threading.Event(), threading.Event()

    def pretend() -> None:
        ctypes.CDLL(None).prctl(15, b"pt_autograd_0", 0, 0, 0)  # PR_SET_NAME
        named.set()
        over.wait()

    thread = threading.Thread(target=pretend)
    thread.start()
    named.wait()
    try:
        assert not may_inherit()
    finally:
        over.set()
        thread.join()
    until(lambda: not Path(f"/proc/self/task/{thread.native_id}").exists(), "the system's thread, which ends last")
    assert may_inherit()


@pytest.mark.parametrize(
    ("counted", "text", "full"),
    [
        ((None, None), r"worker-1 .*exit code -9, usually by the system's memory guard: .*fedlens resume", True),
        ((3, 4), r"worker-1 .*exit code -9, by the kernel, because memory is full: .*fedlens resume", True),
        ((3, 3), r"worker-1 .*exit code -9, by another program.*fedlens resume", False),
    ],
)
def test_a_killed_worker_is_one_clear_error(
    tmp_path, monkeypatch, counted: tuple[int | None, int | None], text: str, full: bool
) -> None:
    counts = iter(counted)
    monkeypatch.setattr(local, "memory_kills", lambda: next(counts))
    place = runtime("local", FedAvg(), tmp_path)
    payload = tiny_trainer(FedAvg(), DATA, None, SETTINGS).model.state()
    os.kill(place._workers[1][0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeFailure, match=text) as failed:
        place.submit(Task(client.name, 1, "train", payload, TaskSettings(lr=0.1)) for client in place.clients())
        list(place.completed())
    assert isinstance(failed.value, OutOfMemory) == full
    place.close()


def test_workers_hold_no_end_of_the_coordinators(tmp_path) -> None:
    """A coordinator killed in the middle of a message must be noticed: every worker's own end then reads EOF."""
    place = runtime("local", FedAvg(), tmp_path, workers=3)
    for index in range(3):
        place._workers[index][1]._send(struct.pack("!i", 1000))  # a header without its message
    for _, connection in place._workers:
        connection.close()
    for process, _ in place._workers:
        process.join(20)
        assert process.exitcode == 0


def test_a_bug_in_a_worker_comes_with_its_traceback(tmp_path) -> None:
    place = runtime("local", FedAvg(), tmp_path)
    with pytest.raises(RuntimeFailure, match=r"(?s)worker-0 failed.*Traceback.*KeyError"):
        place.submit([Task("client0", 1, "train", {}, TaskSettings(lr=0.1))])
        list(place.completed())
    place.close()


def test_sharing_out_is_balanced_and_fixed() -> None:
    sizes = {"a": 10, "b": 50, "c": 20, "d": 30, "e": 30}
    tasks = [Task(name, 1, "train", {}) for name in sizes]
    shares = [[task.client for task in share] for share in share_out(tasks, sizes, 2)]
    # 50 | 30; 30 → 60; 20 → 70 (the first); 10 → 70
    assert shares == [["b", "c"], ["d", "e", "a"]]


def test_messages_keep_every_kind_of_tensor() -> None:
    import multiprocessing

    ours, theirs = multiprocessing.Pipe()
    sent = {
        "float": torch.rand(3, 4).t(),
        "half": torch.rand(5).bfloat16(),
        "whole": torch.tensor(7),
        "none": torch.empty(0, 3),
    }
    wire.send(ours, {"state": sent, "number": 3, "again": sent["float"]})
    message = wire.receive(theirs)
    assert message["number"] == 3
    for name, value in sent.items():
        assert message["state"][name].dtype == value.dtype
        assert torch.equal(message["state"][name], value)
    message["state"]["float"].add_(1)  # what arrives may be written to
