"""What a server holds answers against is what honest clients send, whatever the strategy."""

from __future__ import annotations

import pytest
from tests.helpers import infos, tiny_data, tiny_trainer

from fedlens.federation.types import Answer, Task
from fedlens.runtimes.flower.codec import answer_from, answer_record
from fedlens.runtimes.flower.screening import shapes_of
from fedlens.serve import expectation
from fedlens.strategies.base import RoundContext, strategies
from fedlens.training.settings import LocalSettings

DATA = tiny_data(clients=2)


@pytest.mark.parametrize("entry", strategies.entries(), ids=lambda entry: entry.name)
def test_an_honest_answer_is_expected_and_passes(entry, tmp_path) -> None:
    strategy = entry.build({})
    trainer = tiny_trainer(strategy, DATA, tmp_path, LocalSettings(batch_size=4))
    resident = trainer._model
    shared = resident.state()
    state = strategy.init(shared)
    expect = expectation(resident, shared, strategy, 3)
    kept = None
    for number in (1, 2):
        ctx = RoundContext(number, 2, 2, 1, resident.trainable)
        task = Task("client0", number, "train", strategy.broadcast(state, ctx), {"lr": 0.1}, kept)
        expected = expect(task, infos(DATA)[0])
        answer = trainer.run(task)
        assert isinstance(answer, Answer)
        assert shapes_of(answer.payload) == expected.payload
        assert shapes_of(answer.extra) == expected.extra
        assert answer_from(answer_record(answer), task, expected).report == answer.report
        kept = number if answer.report.stored else None
