"""What modules draw by themselves follows from the seed, the round and the client."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.helpers import CPU, combined, infos, tiny_data
from torch import nn

from fedlens.aggregation.mean import WeightedMean
from fedlens.core.client_store import ClientStore
from fedlens.core.types import Task, TaskSettings
from fedlens.models.base import Preprocessing, Recognizer, prepare
from fedlens.personalization.finetune import FineTune
from fedlens.runtimes.in_process import InProcessRuntime
from fedlens.runtimes.local import LocalRuntime
from fedlens.strategies.fedavg import FedAvg
from fedlens.training.algorithm import Algorithm
from fedlens.training.client import ClientTrainer
from fedlens.training.flat import FlatModel
from fedlens.training.settings import LocalSettings

DATA = tiny_data()
Named = dict[str, torch.Tensor]


def dropping(folder, seed: int = 0) -> ClientTrainer:
    """Dropout of a half before the head, and fine-tuning at home."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Recognizer(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), nn.Linear(64, 3), Preprocessing(8, 1))
    inputs = partial(prepare, how=Preprocessing(8, 1))
    algorithm, settings = Algorithm(FedAvg(), FineTune(tune_epochs=2)), LocalSettings(batch_size=4, seed=seed)
    return ClientTrainer(FlatModel(model, CPU), DATA, algorithm, settings, ClientStore(folder), inputs)


def test_secret_draws_of_a_simulation_repeat_with_its_seed_and_differ_by_place(tmp_path) -> None:
    tasks = [Task("client0", 1, "train", {}), Task("client0", 2, "train", {}), Task("client1", 1, "train", {})]
    drawn = {dropping(tmp_path, seed).secret_seed(task) for seed in (0, 1) for task in tasks}
    again = {dropping(tmp_path, seed).secret_seed(task) for seed in (0, 1) for task in tasks}
    assert drawn == again
    assert len(drawn) == 6
    assert not drawn & {dropping(tmp_path).encoding_context(task).seed for task in tasks}


def same(one: Named, other: Named) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_task_done_again_is_the_same_to_the_last_bit(tmp_path) -> None:
    one = dropping(tmp_path)
    shared = one.model.state()

    def trained(number: int = 1, trainer: ClientTrainer = one) -> Named:
        return trainer.run(Task("client0", number, "train", shared, TaskSettings(lr=0.1))).payload

    def at_home() -> Named:
        one.load_client_model(Task("client0", 1, "evaluate", shared, TaskSettings(lr=0.1)))
        return one.model.state()

    first, home, outside = trained(), at_home(), torch.get_rng_state()
    assert same(first, trained())
    assert same(home, at_home())
    assert torch.equal(outside, torch.get_rng_state()), "nobody else's draws are touched"
    assert not same(first, trained(2))
    assert not same(first, trained(trainer=dropping(tmp_path, seed=1)))


@pytest.mark.parametrize("workers", [1, 3])
def test_it_does_not_matter_which_process_draws(workers: int, tmp_path) -> None:
    make = partial(dropping, tmp_path)
    trainer = make()
    shared, totals = trainer.model.state(), []
    for place in (
        InProcessRuntime(infos(DATA), make),
        LocalRuntime(infos(DATA), make, workers=workers, threads_per_worker=1, start_method="fork"),
    ):
        place.submit(Task(client.name, 1, "train", shared, TaskSettings(lr=0.1)) for client in place.clients())
        totals.append(combined(place.completed(), WeightedMean()).delta)
        place.close()
    for name, value in totals[0].items():
        torch.testing.assert_close(value, totals[1][name], msg=lambda text, n=name: f"{n}: {text}")
