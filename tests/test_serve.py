"""What a server holds answers against is what honest clients send, whatever the strategy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.helpers import infos, tiny_data, tiny_trainer

from fedlens.build.load import load
from fedlens.checks.contracts import results_as_expected
from fedlens.core.types import Task, TaskSettings
from fedlens.errors import FedLensError, ProtocolError
from fedlens.flower.expectation import OWN_METRICS, expectation
from fedlens.flower.serve import own_data
from fedlens.strategies.base import RoundContext, Strategy, strategies
from fedlens.strategies.fedavg import FedAvg
from fedlens.strategies.momentum import effective_steps, most_effective_steps
from fedlens.tracking.observer import Silent
from fedlens.tracking.run_dir import RunDir
from fedlens.training.algorithm import Algorithm
from fedlens.training.screening import check, shapes_of
from fedlens.training.settings import LocalSettings
from fedlens.training.tasks.base import ServerView

DATA = tiny_data(clients=2)
SETTINGS = LocalSettings(batch_size=4, epochs=2)


def view(strategy, model, shared) -> ServerView:
    return ServerView(model, shared, Algorithm(strategy), SETTINGS, 3, OWN_METRICS)


@pytest.mark.parametrize("entry", strategies.entries(), ids=lambda entry: entry.name)
def test_an_honest_answer_is_expected_and_passes(entry, tmp_path) -> None:
    strategy = entry.build({})
    results_as_expected(strategy, tiny_trainer(strategy, DATA, tmp_path, SETTINGS), infos(DATA)[0])


def test_the_form_of_results_is_worked_out_once_for_all_clients(tmp_path, monkeypatch) -> None:
    """Compressing an update of zeros takes as long as compressing an honest one."""
    trainer, calls = tiny_trainer(FedAvg(), DATA, tmp_path, SETTINGS), []
    monkeypatch.setattr(FedAvg, "finish", lambda *given: calls.append(1) or Strategy.finish(*given))
    shared = trainer.model.state()
    expect = expectation(view(FedAvg(), trainer.model, shared))
    forms = [expect(Task(one.name, 1, "train", shared), one) for one in infos(DATA)]
    assert calls == [1]
    assert [form.payload for form in forms] == [shapes_of(shared)] * 2


WITH_EXTRAS = [one.name for one in strategies.entries() if one.factory.largest_extras is not Strategy.largest_extras]


@pytest.mark.parametrize("name", WITH_EXTRAS)
def test_what_a_strategy_wants_beside_the_update_is_bounded_by_what_is_known_of_it(name, tmp_path) -> None:
    """1e300 would make FedNova's and FedExP's model infinite, and stop q-FedAvg's; SCAFFOLD's c goes to everybody."""
    strategy = strategies.get(name).build({})
    trainer = tiny_trainer(strategy, DATA, tmp_path, SETTINGS)
    shared = trainer.model.state()
    ctx = RoundContext(1, 2, 2, 1, trainer.model.trainable)
    task = Task("client0", 1, "train", strategy.broadcast(strategy.init(shared), ctx), TaskSettings(lr=0.1))
    expected = expectation(view(strategy, trainer.model, shared))(task, infos(DATA)[0])
    answer = trainer.run(task)
    check(answer, task, expected)
    assert answer.extra
    for extra, value in answer.extra.items():
        lie = torch.full_like(value, 1e300 if value.dtype == torch.float64 else 1e30)
        with pytest.raises(ProtocolError, match="which cannot be above"):
            check(replace(answer, extra={**answer.extra, extra: lie}), task, expected)


@pytest.mark.parametrize("mu", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fednovas_work_is_at_most_that_of_so_many_steps(mu: float, momentum: float) -> None:
    """‖a‖₁ ≤ K / (1 − ρ), whatever the proximal term takes off, to be met exactly by plain SGD."""
    most = most_effective_steps(7, momentum)
    found = effective_steps(7, momentum, 0.1 * mu)
    assert found <= most
    assert (found == most) == (mu == 0 and momentum == 0)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "sites.json, line 1: not JSON"),
        ("[1, 2]", "sites.json: the whole: "),
        ('{"image_size": 28, "channels": 3}', "sites.json: class_names: "),
        ('{"class_names": [], "image_size": 28, "channels": 3}', "sites.json: class_names: "),
        ('{"class_names": ["cup", 1], "image_size": 28, "channels": 3}', "sites.json: class_names.1: "),
        ('{"class_names": ["cup"], "image_size": 1000000000000, "channels": 3}', "sites.json: image_size: "),
        ('{"class_names": ["cup"], "image_size": 28, "channels": 2}', "sites.json: channels: "),
    ],
)
def test_a_damaged_label_space_is_one_line(tmp_path, text: str, line: str) -> None:
    folder = RunDir(tmp_path)
    (tmp_path / "sites.json").write_text(text)
    with pytest.raises(FedLensError) as caught:
        own_data(load(), folder, None, Silent())
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_label_space_is_read_back_also_from_a_later_version(tmp_path) -> None:
    (tmp_path / "sites.json").write_text('{"class_names": ["cup", "fork"], "image_size": 28, "channels": 1, "new": 1}')
    data = own_data(load(), RunDir(tmp_path), None, Silent())
    assert (data.class_names, tuple(data.images.shape)) == (("cup", "fork"), (0, 28, 28, 1))
