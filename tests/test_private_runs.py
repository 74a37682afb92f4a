"""Whole runs with differential privacy, as users start them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.fake_runs import write_page
from tests.problems import refuses, refuses_with
from tests.runs import QUICK, recorded, run

import fedlens
from fedlens.build.load import load
from fedlens.build.privacy import build_claim, doubts
from fedlens.core.records import RoundRecord
from fedlens.errors import CheckpointError, Code
from fedlens.federation.checkpoints import Checkpoints
from fedlens.privacy.base import LEAVES
from fedlens.reports.compare import as_table, compare_runs
from fedlens.tracking.metrics import line_of, read_metrics
from fedlens.tracking.scalars import scalars_of

PRIVATE = (
    "runtime.name=in_process",
    "privacy.mode=central",
    "federated.fraction_fit=0.5",
    "privacy.insecure_seed=3",
    "privacy.noise_multiplier=2",
)


def final(done: fedlens.Run) -> dict[str, torch.Tensor]:
    newest = Checkpoints(done.folder / "checkpoints").latest(lambda _note: None)
    assert newest is not None
    return dict(newest.state.shared)


def spent(done: fedlens.Run) -> list[float]:
    return [line["measures"]["privacy/epsilon"] for line in read_metrics(done.folder / "metrics.jsonl")]


def test_without_noise_and_clipping_it_is_the_uniform_mean_to_the_bit(tmp_path: Path) -> None:
    everybody = ("runtime.name=in_process", "federated.fraction_fit=1", "federated.num_rounds=2")
    plain = run(tmp_path / "plain", *everybody, "aggregation.weights=uniform")
    free = run(tmp_path / "free", *everybody, "privacy.mode=central", "privacy.noise_multiplier=0", "privacy.clip=1e9")
    for name, value in final(plain).items():
        assert torch.equal(value, final(free)[name]), name


def test_epsilon_rises_in_every_round_and_the_ledger_has_a_line_for_each(tmp_path: Path) -> None:
    done = run(tmp_path, *PRIVATE)
    first, second, third = spent(done)
    assert 0 < first < second < third
    ledger = [json.loads(line) for line in (done.folder / "privacy.jsonl").read_text().splitlines()]
    assert ledger[1:] == [{"round": 1}, {"round": 2}, {"round": 3}]


def test_nothing_that_tells_of_images_leaves_a_client(tmp_path: Path) -> None:
    """What crosses between server and clients is recorded: kinds of tasks, metrics, weights and norms of updates."""
    with recorded() as seen:
        done = run(tmp_path, *PRIVATE, "privacy.clip=0.05")
    assert len(seen) > 6
    for result in seen:
        assert result.kind == "train"
        assert set(result.report.metrics) == set(LEAVES)
        assert result.report.weight == 1.0
        assert not result.extra
        assert sum(float(value.double().square().sum()) for value in result.payload.values()) ** 0.5 <= 0.05
    line = read_metrics(done.folder / "metrics.jsonl")[-1]
    assert line["train_loss"] is None
    assert line["validation"] is None
    assert line["clients"] is None
    assert set(line["measures"]) == {"privacy/epsilon", "privacy/noise", "norm/model"}


def test_the_seed_of_the_run_tells_nothing_of_noise_and_cohorts(tmp_path: Path) -> None:
    """Two runs with the same seed differ; with the same insecure_seed they do not."""
    secret = [
        final(run(tmp_path / name, *PRIVATE, "privacy.insecure_seed=null", "federated.num_rounds=1")) for name in "ab"
    ]
    known = [final(run(tmp_path / name, *PRIVATE, "federated.num_rounds=1")) for name in "cd"]
    assert all(torch.equal(value, known[1][name]) for name, value in known[0].items())
    assert not any(torch.equal(value, secret[1][name]) for name, value in secret[0].items())


def test_the_run_ends_before_its_budget_would_be_exceeded(tmp_path: Path) -> None:
    whole = spent(run(tmp_path / "whole", *PRIVATE))
    done = run(tmp_path / "part", *PRIVATE, f"privacy.budget={whole[1] + 1e-3}")
    assert spent(done) == whole[:2]
    assert "the privacy budget is spent" in (done.folder / "result.json").read_text()
    assert load_file(next((done.folder / "model").glob("*.safetensors")))
    again = fedlens.resume(done.folder, show=False)
    assert spent(again) == whole[:2]


def test_going_on_from_an_older_checkpoint_forgets_nothing(tmp_path: Path) -> None:
    whole = spent(run(tmp_path / "whole", *PRIVATE, "federated.num_rounds=4"))
    done = run(tmp_path / "part", *PRIVATE)
    shutil.rmtree(done.folder / "checkpoints" / "round-00000003")
    (done.folder / "result.json").unlink()
    again = fedlens.resume(done.folder, show=False)
    assert spent(again)[:2] == whole[:2]
    assert spent(again)[2] == pytest.approx(whole[3])  # rounds 1, 2, 3, and 3 once more


def test_a_lost_ledger_counts_as_the_checkpoint_says(tmp_path: Path) -> None:
    done = run(tmp_path, *PRIVATE)
    before = spent(done)
    (done.folder / "privacy.jsonl").unlink()
    more = fedlens.resume(done.folder, "federated.num_rounds=4", show=False)
    assert spent(more)[:3] == before
    assert spent(more)[3] > before[2]


def test_a_resumed_run_keeps_its_mechanism(tmp_path: Path) -> None:
    done = run(tmp_path, *PRIVATE, "privacy.noise_multiplier=null", "privacy.target_epsilon=3")
    assert spent(done)[-1] <= 3
    with pytest.raises(CheckpointError, match="A run keeps its mechanism"):
        fedlens.resume(done.folder, "federated.num_rounds=30", show=False)


def test_group_after_group_of_clients_takes_part(tmp_path: Path) -> None:
    done = run(tmp_path, *PRIVATE, "privacy.sampling=cyclic", "privacy.clip=0.01")
    cohorts = [{one["client"] for one in line["cohort"]} for line in read_metrics(done.folder / "metrics.jsonl")]
    assert len(cohorts[0]) == len(cohorts[1]) == 5
    assert not cohorts[0] & cohorts[1]
    assert cohorts[2] == cohorts[0]
    first, second, third = spent(done)
    assert first == second < third  # in the third round clients take part for the second time


def test_dp_ftrl_goes_on_with_the_same_noise_after_a_stop(tmp_path: Path) -> None:
    """Later rounds take noise back, so a checkpoint has to hold it."""
    ftrl = (*PRIVATE, "privacy.sampling=cyclic", "privacy.mechanism=dp_ftrl", "privacy.clip=0.01")
    whole = run(tmp_path / "whole", *ftrl, "federated.num_rounds=4")
    part = run(tmp_path / "part", *ftrl, "federated.num_rounds=4")
    shutil.rmtree(part.folder / "checkpoints" / "round-00000004")
    (part.folder / "result.json").unlink()
    again = fedlens.resume(part.folder, show=False)
    assert all(torch.equal(value, final(again)[name]) for name, value in final(whole).items())
    assert spent(again)[-1] > spent(whole)[-1]  # round 4 was released twice
    independent = run(tmp_path / "gaussian", *ftrl, "privacy.mechanism=gaussian", "federated.num_rounds=4")
    assert not torch.equal(final(independent)["head.weight"], final(whole)["head.weight"])


SHARED = (
    "runtime.name=in_process", "privacy.mode=central", "privacy.secure_aggregation=true", "privacy.clip=0.01",
    "federated.fraction_fit=0.5", "federated.num_rounds=2",
)  # fmt: skip


def test_secure_sums_without_noise_are_those_that_a_server_would_see(tmp_path: Path) -> None:
    """The clip of the second round follows the bits of the first, which are masked, too."""
    adaptive = ("privacy.clip=adaptive", "privacy.first_clip=0.01", "privacy.clip_rate=1")
    free = (*SHARED, *adaptive, "privacy.noise_multiplier=0", "privacy.sampling=cyclic")
    seen = run(tmp_path / "seen", *free, "privacy.secure_aggregation=false")
    shared = run(tmp_path / "shared", *free)
    for name, value in final(seen).items():
        assert torch.allclose(value, final(shared)[name], rtol=0, atol=1e-7), name
    clips = [line["measures"]["privacy/clip"] for line in read_metrics(shared.folder / "metrics.jsonl")]
    assert clips == [0.01, pytest.approx(0.01 * math.exp(0.5), rel=1e-6)], "all five updates were longer"


def test_clients_share_the_noise_of_a_sum_and_every_attempt_is_counted(tmp_path: Path) -> None:
    with recorded() as sent:
        done = run(tmp_path, *SHARED, "privacy.noise_multiplier=3")
    updates = [one for one in sent if one.kind == "secure_train"]
    assert len(updates) == 10 and "train" not in {one.kind for one in sent}
    assert all(set(one.report.metrics) == set(LEAVES) and one.report.weight == 1 for one in updates)
    once = spent(done)
    assert 0 < once[0] == once[1], "groups of clients take turns"
    line = read_metrics(done.folder / "metrics.jsonl")[-1]
    lenet = sum(value.numel() for value in final(done).values())
    assert line["measures"]["privacy/noise"] == pytest.approx(3 * (lenet / 5 / 3) ** 0.5)  # 5 shares of 3 add up
    shutil.rmtree(done.folder / "checkpoints" / "round-00000002")
    (done.folder / "result.json").unlink()
    again = spent(fedlens.resume(done.folder, show=False))
    assert again[0] == once[0] < again[1], "round 2 was opened twice"
    ledger = (done.folder / "privacy.jsonl").read_text().splitlines()[1:]
    assert [json.loads(one) for one in ledger] == [{"round": 1}, {"round": 2}, {"round": 2}]


def test_a_budget_ends_a_run_of_shared_noise_before_a_sum_is_opened(tmp_path: Path) -> None:
    with recorded() as sent:
        done = run(tmp_path, *SHARED, "federated.num_rounds=3", "privacy.noise_multiplier=3", "privacy.budget=1.7")
    assert len(spent(done)) == 2, "in the third round clients would take part for the second time"
    assert "the privacy budget is spent" in (done.folder / "result.json").read_text()
    assert {one.round for one in sent} == {1, 2}


@pytest.mark.parametrize(
    ("code", "line", "overrides"),
    [
        ("incompatible", "privacy.sampling = 'poisson': with privacy.secure_aggregation", "privacy.sampling=poisson"),
        ("incompatible", "privacy.mechanism = 'dp_ftrl': takes noise of earlier", "privacy.mechanism=dp_ftrl"),
        ("idle_key", "privacy.secure_largest = 8: privacy.mode=central clips updates", "privacy.secure_largest=8"),
        ("contradiction", "privacy.mode = 'local': has no noise that clients can add to masked", "privacy.mode=local"),
        ("contradiction", "privacy.mode = 'example': has no noise that clients can add", "privacy.mode=example"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_shared_noise(code: Code, line: str, overrides: str) -> None:
    with refuses_with(code, line):
        load(None, ["privacy.mode=central", "privacy.secure_aggregation=true", overrides])


@pytest.mark.parametrize(
    ("code", "line", "overrides"),
    [
        ("incompatible", "privacy.secure_aggregation = true: a round may have one", "federated.fraction_fit=0.12"),
        ("incompatible", "privacy.secure_bits=32: so that the sum of", "privacy.secure_bits=32 privacy.clip=1e-7"),
        ("incompatible", "privacy.secure_bits=32: so that", "privacy.secure_bits=32 privacy.noise_multiplier=1e7"),
    ],
)  # fmt: skip
def test_what_cannot_be_summed_with_its_noise(tmp_path: Path, code: Code, line: str, overrides: str) -> None:
    with refuses_with(code, line):
        run(tmp_path, *SHARED, *overrides.split())


def test_locally_every_client_keeps_a_ledger_that_no_server_can_take_back(tmp_path: Path) -> None:
    local = ("runtime.name=in_process", "privacy.mode=local", "privacy.clip=0.01", "privacy.insecure_seed=3")
    done = run(tmp_path, *local, "federated.fraction_fit=1")
    ledgers = sorted((done.folder / "clients").glob("*/privacy.jsonl"))
    assert len(ledgers) == 10
    assert all(len(file.read_text().splitlines()) == 1 + 3 for file in ledgers)


def test_a_client_refuses_what_its_own_budget_does_not_pay_for(tmp_path: Path) -> None:
    """The server would go on: it knows nothing of the release that this client made before."""
    local = ("runtime.name=in_process", "privacy.mode=local", "privacy.clip=0.01", "privacy.noise_multiplier=20")
    three = spent(run(tmp_path / "free", *local, "federated.fraction_fit=1"))
    again = tmp_path / "bound"
    done = run(again, *local, "federated.fraction_fit=1", "federated.num_rounds=2", f"privacy.budget={three[2] + 1e-3}")
    (ledger, *_) = sorted((done.folder / "clients").glob("*/privacy.jsonl"))
    ledger.write_text(ledger.read_text() + '{"round": 2}\n')
    more = fedlens.resume(done.folder, "federated.num_rounds=3", show=False)
    failures = read_metrics(more.folder / "metrics.jsonl")[-1]["failures"]
    assert [one["client"] for one in failures] == [ledger.parent.name]
    assert failures[0]["reason"].startswith("this client's privacy budget is spent: another update would make its ε")


@pytest.mark.parametrize(
    ("key", "overrides"),
    [
        ("strategy.name", "strategy.name=scaffold"),
        ("strategy.name", "strategy.name=qfedavg"),
        ("aggregation.name", "aggregation.name=krum"),
        ("aggregation.weights", "aggregation.weights=examples"),
        ("schedule.name", "schedule.name=fedbuff"),
        ("tracking.updates", "tracking.updates=true"),
        ("tracking.leave_one_out", "tracking.leave_one_out=1"),
        ("stopping.patience", "stopping.patience=3"),
        ("stopping.target_accuracy", "stopping.target_accuracy=0.9"),
        ("server.max_weight_share", "server.max_weight_share=0.2"),
        ("federated.over_selection", "federated.over_selection=0.2"),
        ("federated.quorum", "federated.quorum=2"),
    ],
)
def test_what_would_tell_of_single_clients_is_refused(key: str, overrides: str) -> None:
    with refuses(("contradiction", key)) as caught:
        load(None, ["privacy.mode=central", *overrides.split()])
    assert "privacy.mode=central" in str(caught.value)


@pytest.mark.parametrize("mode", ["local", "example"])
def test_contributions_are_refused_in_every_mode(mode: str) -> None:
    with refuses(("contradiction", "tracking.leave_one_out")):
        load(None, [f"privacy.mode={mode}", "tracking.leave_one_out=1"])


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("privacy.budget=8 privacy.noise_multiplier=0", "privacy.budget = 8: without noise no ε is finite"),
        ("privacy.noise_multiplier=1 privacy.target_epsilon=8", "privacy.target_epsilon = 8: the noise is computed"),
        ("privacy.budget=8 privacy.target_epsilon=9", "privacy.target_epsilon = 9: more than privacy.budget = 8"),
    ],
)
def test_keys_of_privacy_that_exclude_each_other(overrides: str, line: str) -> None:
    with refuses_with("incompatible", line):
        load(None, ["privacy.mode=central", *overrides.split()])


@pytest.mark.parametrize(
    ("code", "overrides", "line"),
    [
        ("contradiction", "privacy.budget=0.01", "privacy.budget = 0.01: one round alone costs ε = "),
        (
            "incompatible",
            "federated.fraction_fit=0.1",
            "federated.fraction_fit = 0.1: a round has 1 clients on average",
        ),
        ("incompatible", "privacy.population=1", "federated.fraction_fit = 0.5: a round has 0.5 clients on average"),
        ("incompatible", "model.name=resnet18", "model.norm = 'batch': running statistics of BatchNorm would travel"),
    ],
)
def test_what_the_clients_and_the_model_do_not_allow(tmp_path: Path, code: Code, overrides: str, line: str) -> None:
    with refuses_with(code, line):
        run(tmp_path, *PRIVATE, *overrides.split())


def test_doubts_are_said_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fedlens.run(
        None, *PRIVATE, "privacy.delta=0.2", "model.name=lenet", "federated.num_rounds=1", f"tracking.dir={tmp_path}",
        "tracking.tensorboard=false", "tracking.report=false",
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "NOBODY IS PROTECTED" in said
    assert "use one far below 1/10 = 0.1" in said
    assert "privacy          NONE: privacy.insecure_seed is set" in said
    assert "privacy   NONE: privacy.insecure_seed is set (else ε = " in said, "the header claims no more"


def test_a_large_delta_is_doubted_against_the_sites_that_have_come() -> None:
    config = load(None, ["privacy.mode=local", "privacy.noise_multiplier=1", "privacy.delta=0.01"])
    claim = build_claim(config, clients=0)
    assert claim is not None
    assert not [*doubts(claim)], "a server does not know how many will come"
    (line,) = doubts(claim, 200)
    assert "use one far below 1/200 = 0.005" in line
    assert not [*doubts(claim, 50)]


def test_console_report_tensorboard_and_comparison_show_what_was_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "logs", *PRIVATE[:-1], "privacy.noise_multiplier=0", "tracking.name=free")
    done = fedlens.run(
        None, *QUICK, *PRIVATE, "privacy.insecure_seed=null", "privacy.clip=0.01", "privacy.budget=9",
        f"tracking.dir={tmp_path / 'logs'}", "tracking.name=private", "tracking.report=true",
    )  # fmt: skip
    value = f"{spent(done)[-1]:.3g}"
    said = capsys.readouterr().out
    assert "privacy   ε = " in said
    assert "5 of 10 clients a round" in said
    assert next(line for line in said.splitlines() if line.split()[:2] == ["round", "loss"]).endswith("ε")
    assert f"privacy          ε = {value} at δ = 1e-05, for whole clients" in said
    page = (done.folder / "report.html").read_text()
    assert "Spent privacy" in page
    assert f"ε = {value} at δ = 1e-05" in page
    rows = {row["run"]: row for row in compare_runs([tmp_path / "logs"])}
    assert [(row["private"], row["epsilon"]) for row in rows.values()] == [(True, None), (True, spent(done)[-1])]
    head, cells = as_table(list(rows.values()))
    assert head[-1] == "ε"
    assert [line[-1] for line in cells] == ["∞", value]
    write_page([tmp_path / "logs"], tmp_path / "page.html")
    assert "Test accuracy by privacy" in (tmp_path / "page.html").read_text()
    record = RoundRecord(1, 0.1, (), (), 0.0, 0, 0, {}, measures={"privacy/epsilon": 2.0})
    assert scalars_of(line_of(record))["privacy/epsilon"] == 2.0
