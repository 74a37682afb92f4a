"""The Ray runtime on a cluster of two nodes on this machine: the local runtime's results, and what can be lost."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from tests.helpers import infos, tiny_data, tiny_trainer
from tests.problems import refuses_with
from tests.runtimes.sample import ALGORITHMS
from torch import nn
from torch.utils.data import TensorDataset

import fedlens
from fedlens.aggregation.mean import WeightedMean
from fedlens.core.types import Task, TaskSettings
from fedlens.errors import CheckpointError, ConnectionFailed, DataError, RuntimeFailure
from fedlens.federation.rounds.synchronous import aggregate
from fedlens.runtimes.local import LocalRuntime
from fedlens.runtimes.ray import RayRuntime
from fedlens.runtimes.ray_cluster import JOINING, import_ray
from fedlens.runtimes.ray_worker import RayWorker, frozen
from fedlens.strategies.base import RoundContext
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.sections import OptimizerSection
from fedlens.training.settings import LocalSettings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own sockets, pipes and tips

DATA = tiny_data(clients=5)
SETTINGS = LocalSettings(batch_size=4, epochs=2)
TOLERANCE = 1e-5
FEDLENS = (sys.executable, "-c", "from fedlens.cli.main import main; main()")
QUICK = (
    "model.name=lenet",
    "optimizer.lr=0.05",
    "federated.num_rounds=3",
    "federated.fraction_fit=0.4",
    "runtime.workers=2",
    "tracking.tensorboard=false",
    "tracking.report=false",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[SimpleNamespace]:
    """Two nodes of two CPUs each, found at `cluster.address`."""
    import_ray(None)
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        nodes.add_node(num_cpus=2)
        for name, value in JOINING.items():  # what a run that names an address sets; gone again afterwards
            patch.setenv(name, value)
        yield nodes
        nodes.shutdown()


def on(cluster, folder: Path, strategy=FedAvg(), workers=2, settings=SETTINGS) -> RayRuntime:  # noqa: B008
    folder.mkdir(exist_ok=True)
    return RayRuntime(
        infos(DATA),
        lambda: tiny_trainer(strategy, DATA, folder, settings),
        address=cluster.address,
        workers=workers,
        threads_per_worker=1,
        gpu=False,
        folder=folder,
    )


def unaggregated(place) -> dict[str, torch.Tensor]:
    """Every client's own update; half of them start from another model."""
    first = tiny_trainer(FedAvg(), DATA, None, SETTINGS).model.state()
    models = [first, {name: value + 0.1 for name, value in first.items()}]
    try:
        place.submit(
            Task(client.name, 1 + index % 2, "train", models[index % 2], TaskSettings(lr=0.1), unaggregated=True)
            for index, client in enumerate(place.clients())
        )
        return {answer.client: answer.payload["head.bias"] for answer in place.completed()}
    finally:
        place.close()


def test_tasks_of_several_models_come_back_one_by_one(cluster, tmp_path) -> None:
    found, expected = unaggregated(on(cluster, tmp_path / "ray")), unaggregated(locally(tmp_path / "local"))
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[client], value, atol=TOLERANCE) for client, value in expected.items())


def locally(folder: Path, strategy=FedAvg()) -> LocalRuntime:  # noqa: B008
    make = lambda: tiny_trainer(strategy, DATA, folder, SETTINGS)  # noqa: E731
    return LocalRuntime(infos(DATA), make, workers=2, threads_per_worker=1, start_method="fork")


def three_rounds(place, strategy=FedAvg(), before=lambda number: None, after=lambda: None):  # noqa: B008
    """The shared state before and after three rounds of everybody. `before` a round's tasks are handed out and `after`
    they are, something may happen."""
    trainer = tiny_trainer(strategy, DATA, None, SETTINGS)
    first = trainer.model.state()
    state = strategy.init(first)
    try:
        for number in range(1, 4):
            ctx = RoundContext(number, 3, 5, 5, trainer.model.trainable)
            payload = strategy.broadcast(state, ctx)
            before(number)
            place.submit(
                Task(client.name, number, "train", payload, TaskSettings(lr=0.1)) for client in place.clients()
            )
            after()
            mean = WeightedMean()
            reports, _ = aggregate(place.completed(), mean)
            assert sorted(report.client for report in reports) == [client.name for client in infos(DATA)]
            state = strategy.step(state, mean.result(), ctx)
    finally:
        place.close()
    return first, state.shared


def process(actor) -> psutil.Process:
    """An actor's own; its parent is the node's raylet."""
    return psutil.Process(int(actor.name.split("process ")[1].rstrip(")")))


def test_actors_on_two_nodes_give_what_worker_processes_give(cluster, tmp_path, monkeypatch) -> None:
    place = on(cluster, tmp_path / "ray")
    assert len({process(actor).ppid() for actor in place._actors}) == 2, "both actors are on one node"
    put, states = place._ray.put, []
    monkeypatch.setattr(place._ray, "put", lambda value: states.append(value) or put(value))
    first, shared_out = three_rounds(place)
    assert len(states) == 3, "the global state is put once a round"
    _, expected = three_rounds(locally(tmp_path / "local"))
    for name, value in expected.items():
        assert (value - first[name]).abs().max() > 1000 * TOLERANCE, f"{name} hardly moved: the test shows nothing"
        assert torch.equal(value, shared_out[name]), name  # as many actors as workers: the same order, the same bits


def test_a_cluster_that_is_too_small(cluster, tmp_path) -> None:
    with pytest.raises(RuntimeFailure, match=r"5 actors \(runtime\.workers\) of 1 CPU each do not fit .* with 4:"):
        on(cluster, tmp_path, workers=9)
    assert not import_ray(None).is_initialized()


def test_a_program_s_own_connection_is_used_and_stays(cluster, tmp_path) -> None:
    ray = import_ray(None)
    ray.init(cluster.address, log_to_driver=False)
    try:
        with pytest.raises(RuntimeFailure, match=r"do not fit .* with 4:"):
            on(SimpleNamespace(address=None), tmp_path, workers=9)
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def missing() -> None:
    raise DataError("data.path: there is no folder 'photos'")


def test_what_goes_wrong_in_the_only_actor_is_told_with_the_way_out(cluster, tmp_path) -> None:
    place = on(cluster, tmp_path, workers=1)
    with pytest.raises(RuntimeFailure, match=r"^actor-0 on .* \(process \d+\): data\.path: there is no folder"):
        place._build(missing)
    payload = tiny_trainer(FedAvg(), DATA, None, SETTINGS).model.state()
    place.submit([Task("client0", 2, "train", payload, TaskSettings(lr=0.1), store_version=1)])
    with pytest.raises(CheckpointError, match="client 'client0' has no private state of version 1"):
        list(place.completed())
    place.submit([Task("client0", 1, "train", {}, TaskSettings(lr=0.1))])
    with pytest.raises(RuntimeFailure, match=r"(?s)actor-0 on .*failed.*KeyError"):
        list(place.completed())
    process(place._actors[0]).suspend()
    place.submit([Task("client0", 1, "train", payload, TaskSettings(lr=0.1))])
    with pytest.raises(RuntimeFailure, match=r"actor-0 on .*gave no answer within 0\.2 s"):
        list(place.completed(timeout=0.2))
    process(place._actors[0]).kill()
    place.submit([Task("client0", 1, "train", payload, TaskSettings(lr=0.1))])
    with pytest.raises(RuntimeFailure, match=r"actor-0 on .*was lost.*It was the last.*fedlens resume"):
        list(place.completed())
    place.close()


def test_a_killed_actor_is_reported_and_the_others_do_its_work(cluster, tmp_path, caplog) -> None:
    place = on(cluster, tmp_path / "ray", workers=3)
    victim = process(place._actors[1])
    round_two = iter([False, True, False])
    first, shared_out = three_rounds(
        place,
        before=lambda number: victim.suspend() if number == 2 else None,  # so that it is killed in the middle of work
        after=lambda: victim.kill() if next(round_two) else None,
    )
    _, expected = three_rounds(locally(tmp_path / "local"))
    for name, value in expected.items():
        assert (value - first[name]).abs().max() > 1000 * TOLERANCE
        assert torch.allclose(value, shared_out[name], atol=TOLERANCE), name
    (record,) = caplog.records
    assert f"process {victim.pid}) was lost: The actor is dead" in record.message
    assert "The others (2) do its work" in record.message


def run(folder: Path, *overrides: str, **given) -> fedlens.Run:
    quick = QUICK[1:] if "model" in given else QUICK  # a model that is given has no name
    return fedlens.run(None, *quick, f"tracking.dir={folder}", *overrides, show=False, **given)


@pytest.mark.parametrize(
    "keep", [("optimizer.keep=true", "strategy.name=fedavgm"), ("federated.edges=2", "runtime.vectorize=2")]
)
def test_a_run_and_its_resume_are_those_of_the_local_runtime(cluster, keep, tmp_path) -> None:
    expected = run(tmp_path / "local", *keep)
    short = run(tmp_path, *keep, "federated.num_rounds=1", "runtime.name=ray", f"runtime.address={cluster.address}")
    longer = fedlens.resume(short.folder, "federated.num_rounds=3", show=False)
    for (name, left), right in zip(
        expected.model.state_dict().items(), longer.model.state_dict().values(), strict=True
    ):
        assert torch.allclose(left, right, atol=TOLERANCE), name
    losses = [list(done.metrics["train_loss"]) for done in (expected, longer)]
    assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE)


FUSION = ("model.name=fusion", "model.width=16", "data.modalities.image_only=0.3", "data.modalities.text_only=0.3")
WITH_TEXTS = {**ALGORITHMS, "images and texts, of which clients lack one": FUSION}


@pytest.mark.parametrize("algorithm", WITH_TEXTS)
def test_algorithms_of_each_kind_are_those_of_the_local_runtime(cluster, tmp_path, algorithm: str) -> None:
    clients = ("data.partition.scheme=iid", "data.partition.clients=3", "federated.fraction_fit=1")
    overrides = (*WITH_TEXTS[algorithm], *clients)
    expected = run(tmp_path / "local", *overrides)
    first = run(tmp_path / "first", *overrides, "optimizer.lr=1e-12", "federated.num_rounds=1")
    found = run(tmp_path / "ray", *overrides, "runtime.name=ray", f"runtime.address={cluster.address}")
    for name, value in expected.model.state_dict().items():
        moved = (value - first.model.state_dict()[name]).abs().max()
        if "FedPer" in algorithm and name.startswith("head."):
            assert moved == 0
        else:
            assert moved > 1000 * TOLERANCE, f"{name} hardly moved"
        assert torch.allclose(found.model.state_dict()[name], value, atol=TOLERANCE), name
    assert list(found.metrics["train_loss"]) == pytest.approx(
        list(expected.metrics["train_loss"]), abs=TOLERANCE, nan_ok=True
    )


def test_clients_that_keep_something_need_a_folder_that_all_nodes_see(cluster, tmp_path) -> None:
    settings = replace(SETTINGS, training=OptimizerSection(keep=True))
    place = on(cluster, tmp_path, settings=settings)
    assert all(actor.sees_run_folder for actor in place._actors)
    place._actors[1] = replace(place._actors[1], sees_run_folder=False)
    with pytest.raises(
        RuntimeFailure, match=r"clients keep tensors or ledgers .*and actor-1 on .* cannot see .*tracking\.dir"
    ):
        three_rounds(place)


def test_your_own_module_and_datasets_reach_the_actors(cluster, tmp_path) -> None:
    class Clothes(nn.Module):  # of no module that an actor could import
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layers(images)

    labels = torch.arange(240) % 3
    images = torch.rand(240, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[torch.arange(240), 0, :, labels] += 2
    data = TensorDataset(images, labels)
    settings = ("data.partition.scheme=iid", "federated.batch_size=4")
    expected = run(tmp_path / "local", *settings, model=Clothes(), data=data).model.state_dict()
    there = ("runtime.name=ray", f"runtime.address={cluster.address}")
    found = run(tmp_path / "ray", *settings, *there, model=Clothes(), data=data).model.state_dict()
    for name, first in Clothes().state_dict().items():
        assert (first - expected[name]).abs().max() > 1000 * TOLERANCE, f"{name} hardly moved: the test shows nothing"
        assert torch.allclose(expected[name], found[name], atol=TOLERANCE), name


def test_a_killed_node_is_reported_and_the_other_does_its_work(cluster, tmp_path, caplog) -> None:
    """The last that happens to this cluster."""
    (node,) = cluster.worker_nodes
    place = on(cluster, tmp_path / "ray")
    (victim,) = (
        process(actor)
        for actor in place._actors
        if process(actor).ppid() == node.all_processes["raylet"][0].process.pid
    )
    removed = iter([False, True, False])
    _, shared_out = three_rounds(
        place,
        before=lambda number: victim.suspend() if number == 2 else None,
        after=lambda: cluster.remove_node(node, allow_graceful=False) if next(removed) else None,
    )
    _, expected = three_rounds(locally(tmp_path / "local"))
    assert all(torch.allclose(value, shared_out[name], atol=TOLERANCE) for name, value in expected.items())
    assert [f"process {victim.pid}) was lost" in record.message for record in caplog.records] == [True]


def test_what_cannot_travel_is_named() -> None:
    with pytest.raises(RuntimeFailure, match=r"your own model or data set cannot be sent .*lock"):
        frozen(partial(print, threading.Lock()), pickle)


def test_an_actor_says_whether_it_sees_the_run_s_folder(tmp_path) -> None:
    trainer = frozen(list, pickle)
    assert not RayWorker(1).build(trainer, Path.cwd(), tmp_path / "probe")
    (tmp_path / "probe").touch()
    assert RayWorker(1).build(trainer, Path.cwd(), tmp_path / "probe")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379"])
def test_nobody_at_the_address(tmp_path, address: str) -> None:
    with pytest.raises(ConnectionFailed, match=rf"runtime\.address='{address}': no Ray cluster .*ray start"):
        run(tmp_path, "runtime.name=ray", f"runtime.address={address}")


def test_no_address_at_all(tmp_path) -> None:
    with refuses_with("invalid_value", "runtime.address = 'here': must be text such as auto, 10.0.0.5:6379"):
        run(tmp_path, "runtime.address=here")


def test_without_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with refuses_with("unavailable", "runtime.name='ray' needs the extra: pip install 'fedlens[ray]'"):
        run(tmp_path, "runtime.name=ray")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*FEDLENS, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_somebody_else_at_the_address_is_noticed_soon(tmp_path) -> None:
    """By itself, Ray tries for more than ten minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        process = start("run", *QUICK, f"tracking.dir={tmp_path}", "runtime.name=ray", f"runtime.address={address}")
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"runtime.address='{address}': no Ray cluster" in output
    assert "Traceback" not in output


def test_ctrl_c_with_a_ray_of_its_own_leaves_nothing_behind(tmp_path) -> None:
    """Neither processes nor, on the console, a word of Ray's."""
    settings = (*QUICK, f"tracking.dir={tmp_path}", "federated.num_rounds=1000")
    process = start("run", *settings, "runtime.name=ray")
    (metrics,) = wait_for(process, lambda: [file for file in tmp_path.glob("*/metrics.jsonl") if file.stat().st_size])
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in children)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"fedlens resume {metrics.parent}" in output
    assert "Traceback" not in output
    assert "ray" not in output.lower().replace(str(tmp_path), "")
    assert psutil.wait_procs(children, timeout=60)[1] == []


def wait_for(process: subprocess.Popen[str], condition):
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert process.poll() is None, f"ended before the moment came: {process.communicate()[0]}"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found
