"""A search: which trials are asked for, which are stopped, what counts; with work that takes the place of training."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from tests.fake_runs import record
from tests.problems import refuses

from fedlens.build.load import load
from fedlens.cli.sweep import Before
from fedlens.config.load import dump
from fedlens.core.records import Evaluation
from fedlens.errors import TrainingDiverged
from fedlens.sweeps.methods import TRIALS, Method, methods, open_study
from fedlens.sweeps.outcome import Outcome, outcome_of, row, write_page
from fedlens.sweeps.points import Point, cases, listed
from fedlens.sweeps.pool import Pool
from fedlens.sweeps.screen import SweepScreen
from fedlens.sweeps.search import (
    FAILURE,
    LABEL,
    NUMBER,
    STOPPED,
    Search,
    ask_again,
    begun,
    finished,
    free_number,
    planned,
)
from fedlens.sweeps.space import searched
from fedlens.tracking.metrics import MetricsFile, read_metrics
from fedlens.tracking.observer import Observer
from fedlens.tracking.run_dir import RunDir, find_runs

FOLDER = Path("logs/tune")
ROUNDS = 6
LIST = ("optimizer.lr=log:0.001:10",)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)


def of(*texts: str, lists: tuple[str, ...] = ()) -> list[Method]:
    fixed = ["model.name=lenet", f"federated.num_rounds={ROUNDS}"]
    return methods(None, fixed, listed(lists)[0], searched(texts)[0], "tune")


def evaluation(accuracy: float) -> Evaluation:
    """Of 1,000 images."""
    right = round(500 * accuracy)
    return Evaluation(1 - accuracy, np.array([[right, 500 - right], [500 - right, right]]))


def validation(lr: float, number: int) -> float:
    """Best at 0.1; it grows by round."""
    return max(0.9 - 0.2 * abs(math.log10(lr / 0.1)), 0.1) * number / ROUNDS


def work(point: Point, observer: Observer) -> None:
    """A run whose test accuracy says the opposite of its validation."""
    lr = point.config.optimizer.lr
    known = Before(FOLDER).run_of(point.config)
    run = known or RunDir.create(point.config.tracking.dir, point.label)
    run.config.write_text(dump(point.config))
    done = len(read_metrics(run.metrics))
    metrics = MetricsFile(run.metrics, done or None)
    observer.start({"folder": str(run.path)}, ROUNDS, done)
    for number in range(done + 1, ROUNDS + 1):
        if lr > 5:
            raise TrainingDiverged("lr is too high")
        found = validation(lr, number)
        told = replace(record(number), validation=evaluation(found), test=evaluation(1 - found))
        metrics.round(told)
        observer.round(told)
        time.sleep(0.05 if lr < 0.002 else 0)  # time to be told that it is not wanted
    run.finish("done")


def search(found: list[Method], trials: int, jobs: int = 1, work=work, prune: bool = True) -> list[optuna.Study]:
    studies = {one.name: (one, open_study(one, FOLDER, prune)) for one in found}
    labels = {one.label(number): ROUNDS for one in found for number in range(1, planned(one, trials) + 1)}
    asked = Search(studies, trials, 0, Before(FOLDER), SweepScreen(labels, {}, jobs, "trial"))
    Pool(work, asked, jobs, unwanted=asked.unwanted).run(asked.points())
    return [study for _, study in studies.values()]


def outcomes(found: list[Method], studies: list[optuna.Study]) -> list[Outcome]:
    return [outcome_of(method, study, FOLDER) for method, study in zip(found, studies, strict=True)]


def test_it_finds_what_validates_best_and_not_what_tests_best() -> None:
    found = of(*LIST)
    (study,) = search(found, 15)
    (outcome,) = outcomes(found, [study])
    assert len(finished(study)) == len(find_runs(FOLDER)) == 15
    lr = load(outcome.configuration).optimizer.lr
    assert 0.03 < lr < 0.3
    assert outcome.best is not None
    assert outcome.best.value == pytest.approx(validation(lr, ROUNDS), abs=0.001)
    assert outcome.best.value == max(trial.value for trial in study.trials if trial.state is TrialState.COMPLETE)
    assert outcome.test == pytest.approx(1 - outcome.best.value, abs=0.001)
    assert Path("logs/tune/best.yaml").read_text().startswith("# Found by `fedlens tune`: trial ")
    assert load(outcome.configuration).tracking.dir == Path("logs")


def test_the_configurations_own_values_are_tried_first() -> None:
    found = of(*LIST)
    (study,) = search(found, 2)
    assert study.trials[0].params == {"optimizer.lr": found[0].make({}).optimizer.lr}


def test_one_that_is_worse_than_the_median_is_stopped() -> None:
    """The learning rates are given, so that the last one is the worst."""
    found = of("optimizer.lr=0.1,0.11,0.09,0.12,0.08,0.001")
    study = open_study(found[0], FOLDER, True)
    for lr in (0.1, 0.11, 0.09, 0.12, 0.08, 0.001):
        study.enqueue_trial({"optimizer.lr": lr}, skip_if_exists=True)
    search(found, 7)
    last = next(trial for trial in study.trials if trial.params == {"optimizer.lr": 0.001})
    assert last.state is TrialState.PRUNED
    run = next(run for run in find_runs(FOLDER) if load(run.config).optimizer.lr == 0.001)
    assert len(read_metrics(run.metrics)) < ROUNDS
    assert STOPPED in run.result.read_text()
    (outcome,) = outcomes(found, [study])
    assert outcome.stopped >= 1
    assert outcome.failed == 0


def test_without_pruning_all_come_to_their_end() -> None:
    found = of(*LIST)
    (study,) = search(found, 8, prune=False)
    assert {trial.state for trial in study.trials if trial.params["optimizer.lr"] < 5} == {TrialState.COMPLETE}


def test_every_method_has_as_many_trials() -> None:
    found = of(*LIST, "strategy.mu=log:0.001:1", lists=("strategy.name=fedavg,fedprox",))
    studies = search(found, 4, jobs=2)
    assert [len(finished(study)) for study in studies] == [4, 4]
    assert {key for trial in studies[0].trials for key in trial.params} == {"optimizer.lr"}
    written = outcomes(found, studies)
    assert [load(one.configuration).strategy.name for one in written] == ["fedavg", "fedprox"]
    write_page(written, FOLDER)
    page = (FOLDER / "tune.html").read_text()
    assert "What mattered for strategy=fedprox" in page
    assert "What mattered for strategy=fedavg" not in page  # of one key alone nothing is to be said


def test_a_failed_one_is_told_and_its_values_are_avoided() -> None:
    found = of("optimizer.lr=0.1,9")
    study = open_study(found[0], FOLDER, True)
    study.enqueue_trial({"optimizer.lr": 9})
    search(found, 4)
    failed = [trial for trial in study.trials if FAILURE in trial.user_attrs]
    assert {trial.user_attrs[FAILURE] for trial in failed} == {"lr is too high"}
    assert {trial.state for trial in failed} == {TrialState.PRUNED}
    (outcome,) = outcomes(found, [study])
    assert outcome.failed == len(failed)
    assert row(outcome)[1] == "lr=0.1"


def test_where_all_fail_there_is_no_configuration() -> None:
    found = of("optimizer.lr=8,9")
    (study,) = search(found, 2)
    (outcome,) = outcomes(found, [study])
    assert outcome.configuration is None
    assert outcome.failure == "lr is too high"
    write_page([outcome], FOLDER)


def test_the_same_values_are_not_run_twice() -> None:
    found = of("optimizer.lr=0.1,0.2")
    (study,) = search(found, 6)
    assert len(finished(study)) == 6
    assert len(find_runs(FOLDER)) == 2


def test_an_interrupted_search_goes_on() -> None:
    """The run that was interrupted goes on where it stopped, with the same values, as the same trial."""
    found = of(*LIST)

    class Killed(Exception): ...

    class Impatient(SweepScreen):
        def round(self, point: Point, number: int, accuracy: float | None) -> None:
            if self._finished == 2 and number == 3:
                raise Killed

    def slowly(point: Point, observer: Observer) -> None:
        work(point, observer)
        time.sleep(0.2)

    study = open_study(found[0], FOLDER, False)
    screen = Impatient({found[0].label(number): ROUNDS for number in range(1, 6)}, {}, 1, "trial")
    asked = Search({"": (found[0], study)}, 5, 0, Before(FOLDER), screen)
    with pytest.raises(Killed):
        Pool(slowly, asked, 1).run(asked.points())
    (interrupted,) = (trial for trial in study.trials if trial.state is TrialState.RUNNING)
    search(found, 5, prune=False)
    study = open_study(found[0], FOLDER, False)
    again = next(trial for trial in finished(study) if trial.params == interrupted.params)
    assert again.user_attrs[LABEL] == "trial 3"
    assert sorted(again.intermediate_values) == list(range(1, ROUNDS + 1))
    assert begun(study) == len(find_runs(FOLDER)) == 5
    tried = [trial.params for trial in finished(study)]
    search(found, 5)
    assert len(find_runs(FOLDER)) == 5
    FOLDER.rename("other")
    FOLDER.mkdir()
    assert [trial.params for trial in search(found, 5, prune=False)[0].trials] == tried


def test_another_search_is_not_mixed_in() -> None:
    search(of(*LIST), 1)
    for other in (of("optimizer.lr=log:0.01:10"), of("optimizer.lr=float:0.1:1")):
        with refuses(("contradiction", "--name")):
            open_study(other[0], FOLDER, True)


def test_the_seed_decides_what_is_tried() -> None:
    tried = [[trial.params for trial in search(of(*LIST), 4)[0].trials]]
    FOLDER.rename("other")
    FOLDER.mkdir()
    tried.append([trial.params for trial in search(of(*LIST), 4)[0].trials])
    assert tried[0] == tried[1]


def test_a_run_that_is_not_validated_has_failed() -> None:
    def blind(point: Point, observer: Observer) -> None:
        run = RunDir.create(FOLDER, point.label)
        observer.start({"folder": str(run.path)}, 1, 0)
        run.config.write_text(dump(point.config))
        MetricsFile(run.metrics).round(replace(record(1), validation=None))

    found = of(*LIST)
    (outcome,) = outcomes(found, search(found, 1, work=blind))
    assert outcome.failure == "no round was validated: data.validation has to be above 0"


def test_trials_that_were_interrupted_out_of_order_get_numbers_that_are_free() -> None:
    """Of five, two and four have ended: as with several at a time."""
    found = of(*LIST)
    study = open_study(found[0], FOLDER, False)
    for number in range(1, 6):
        trial = study.ask(dict(found[0].space))
        trial.set_user_attr(NUMBER, number)
        trial.set_user_attr(LABEL, f"trial {number}")
        if number in (2, 4):
            study.tell(trial, 0.1)
    ask_again(study)
    assert [free_number(study)] == [1]
    search(found, 5)
    assert sorted(trial.user_attrs[LABEL] for trial in finished(study)) == [f"trial {number}" for number in range(1, 6)]


def test_values_that_are_invalid_together_are_one_failed_trial() -> None:
    found = of("model.lora.rank=0,4", "model.freeze=none,backbone")
    (study,) = search(found, 8)
    assert len(finished(study)) == 8
    failed = {trial.user_attrs[FAILURE] for trial in finished(study) if FAILURE in trial.user_attrs}
    assert all("model." in text for text in failed)


def test_a_file_that_ends_in_the_middle_of_a_line(tmp_path: Path) -> None:
    search(of(*LIST), 2)
    path = FOLDER / TRIALS
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "work')
    (study,) = search(of(*LIST), 3)
    assert len(finished(study)) == 3
    path.write_text("what?\n" + path.read_text())
    with refuses(("unreadable", str(path))):
        open_study(of(*LIST)[0], FOLDER, True)


def test_nothing_mattered_where_all_reach_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "validation", lambda _lr, _number: 0.5)
    found = of(*LIST, "optimizer.momentum=0,0.9")
    written = outcomes(found, search(found, 6))
    write_page(written, FOLDER)
    assert "What mattered" not in (FOLDER / "tune.html").read_text()


def test_a_hostile_name_is_text(tmp_path: Path) -> None:
    fixed = ["model.name=lenet", f"federated.num_rounds={ROUNDS}"]
    axes = [cases(["<img src=x onerror=alert(1)>: seed=1", "plain: seed=2"])]
    found = methods(None, fixed, axes, searched(LIST)[0], "tune")
    write_page(outcomes(found, search(found, 1)), FOLDER)
    assert "<img" not in (FOLDER / "tune.html").read_text()
