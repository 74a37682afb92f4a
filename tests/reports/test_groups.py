"""Runs that differ in their seed alone: means, intervals, differences, ranks, targets, and the tables of them."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.commands import command, refused_in_one_line
from tests.fake_runs import record, write_run

from fedlens.core.records import Evaluation
from fedlens.reports.compare import load_all
from fedlens.reports.figures.runs import over_seeds
from fedlens.reports.group_tables import against, escaped, latex, means, to_target
from fedlens.reports.groups import differences, grouped, ranks, reached, wilcoxon
from fedlens.reports.headline import headline
from fedlens.reports.load import load_run
from fedlens.reports.means import Mean
from fedlens.tracking.card import card
from fedlens.tracking.metrics import MetricsFile

NOT_PRIVATE = -1.0


def run(base: Path, seed: int, right: Sequence[int], epsilon: float | None = NOT_PRIVATE, **sections: dict) -> None:
    """A run whose test accuracy in each round is that number of 1,000 images; `epsilon` is spent by each round."""
    folder = write_run(base, "run")
    config = yaml.safe_load(folder.config.read_text()) | {"seed": seed, "optimizer": {"lr": 0.1}}
    for section, values in sections.items():
        config[section] = config.get(section, {}) | values
    folder.config.write_text(yaml.safe_dump(config))
    metrics = MetricsFile(folder.metrics)
    for number, count in enumerate(right, start=1):
        test = Evaluation(1.0, np.array([[count, 1000 - count], [0, 0]]))
        measures = {} if epsilon == NOT_PRIVATE else {"privacy/epsilon": epsilon}
        metrics.round(replace(record(number), test=test, validation=None, measures=measures))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Two methods with three seeds, and one run with another learning rate."""
    for seed, (one, other) in enumerate([(700, 710), (720, 740), (710, 740)]):
        run(tmp_path, seed, [100, 600, one])
        run(tmp_path, seed, [100, 650, other], strategy={"name": "fedprox", "mu": 0.1})
    run(tmp_path, 0, [100, 300, 500], optimizer={"lr": 0.5})
    return tmp_path


def test_runs_of_one_method_are_one_group_that_says_what_differs(logs: Path) -> None:
    groups = grouped(load_all([logs]))
    assert [(group.label, [*group.runs]) for group in groups] == [
        ("lr=0.1 strategy=fedavg", [0, 1, 2]), ("lr=0.1 strategy=fedprox", [0, 1, 2]), ("lr=0.5 strategy=fedavg", [0]),
    ]  # fmt: skip


def test_cases_of_a_sweep_keep_their_names(tmp_path: Path) -> None:
    """Without the seed; where some runs have no name, or two groups have one, it is what differs."""
    for name, mu in (("plain", 0.0), ("near, α = 1", 0.1)):
        for seed in (0, 1):
            run(tmp_path, seed, [1], strategy={"name": "fedprox", "mu": mu}, tracking={"name": f"seed={seed} {name}"})
    assert [group.label for group in grouped(load_all([tmp_path]))] == ["plain", "near, α = 1"]
    run(tmp_path, 0, [1], strategy={"name": "fedprox", "mu": 0.2}, tracking={"name": "seed=0 plain"})
    assert [group.label for group in grouped(load_all([tmp_path]))] == ["mu=0.0", "mu=0.1", "mu=0.2"]


def test_values_of_keys_are_no_names(tmp_path: Path) -> None:
    """Two sweeps over learning rates, of two strategies: their labels say nothing of the strategy."""
    for strategy, rates in (("fedavg", (0.1, 0.2)), ("fedprox", (0.3, 0.4))):
        for lr in rates:
            settings = {"strategy": {"name": strategy}, "optimizer": {"lr": lr}}
            run(tmp_path, 0, [1], **settings, tracking={"name": f"partition.seed=1 lr={lr}"})
    assert [group.label for group in grouped(load_all([tmp_path]))] == [
        "lr=0.1 strategy=fedavg", "lr=0.2 strategy=fedavg", "lr=0.3 strategy=fedprox", "lr=0.4 strategy=fedprox",
    ]  # fmt: skip


def test_a_run_shows_itself_as_finished_before_it_lets_go(tmp_path: Path) -> None:
    """Its report and its card in a notebook are made while its process still holds it."""
    folder = write_run(tmp_path)
    with folder.exclusive_lock():
        assert headline(load_run(folder.path)).status == "finished"
        assert "finished: all rounds done" in card(folder.path, ())


def test_looking_at_a_run_of_this_process_leaves_its_lock(tmp_path: Path) -> None:
    write_run(tmp_path, "half", rounds=2)
    ((loaded, _),) = load_all([tmp_path])
    look = "import sys; from pathlib import Path; from fedlens.tracking.run_dir import RunDir; "
    look += "print(RunDir(Path(sys.argv[1])).is_in_use)"
    command_line = [sys.executable, "-c", look, str(loaded.folder.path)]
    with loaded.folder.exclusive_lock():
        assert headline(loaded).status == "running"
        assert subprocess.check_output(command_line, text=True) == "True\n", "another process sees it held"
    assert subprocess.check_output(command_line, text=True) == "False\n"


def test_a_run_that_goes_on_is_not_called_stopped(tmp_path: Path) -> None:
    write_run(tmp_path, "half", rounds=2)
    ((loaded, line),) = load_all([tmp_path])
    assert line.status == "stopped"
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(loaded.folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with held:
        assert held.stdout.readline() == b"held\n"
        assert headline(loaded).status == "running"
        assert " running" in command(f"compare {tmp_path}").stdout
        held.communicate(b"\n")
    assert headline(loaded).status == "stopped"


HOLD = """
import sys
from pathlib import Path
from fedlens.tracking.run_dir import RunDir
with RunDir(Path(sys.argv[1])).exclusive_lock():
    print("held", flush=True)
    sys.stdin.readline()
"""
"""Holds a run as a process that trains it does."""


def test_the_place_and_the_machine_make_no_other_method(tmp_path: Path) -> None:
    run(tmp_path, 0, [1], tracking={"dir": "a"}, runtime={"workers": 2})
    run(tmp_path, 1, [2], tracking={"dir": "b"}, runtime={"workers": 1})
    (group,) = grouped(load_all([tmp_path]))
    assert group.label == "fedavg"


def test_the_interval_of_a_mean_by_hand() -> None:
    """Mean 0.71, standard deviation 0.01; t of two degrees of freedom is 4.303: 4.303 · 0.01 / √3 = 0.0248."""
    mean = Mean.of([0.70, 0.72, 0.71])
    assert mean is not None
    assert (mean.value, mean.half, mean.count) == (pytest.approx(0.71), pytest.approx(0.02484, abs=1e-5), 3)
    assert Mean.of([0.7, 0.8]) == Mean(0.75, None, 2), "Student's t says nothing of use about two"
    assert Mean.of([]) is None
    assert Mean.of([0.7, None, 0.8]) is None, "a mean over some seeds would not be that of the others"


def test_differences_are_of_the_same_seeds(logs: Path) -> None:
    """0.01, 0.02 and 0.03: mean 0.02, half 4.303 · 0.01 / √3."""
    prox, lonely = differences((groups := grouped(load_all([logs])))[0], groups, "accuracy")
    assert (prox.label, prox.mean.value, prox.mean.count, prox.p) == (
        "lr=0.1 strategy=fedprox",
        pytest.approx(0.02),
        3,
        None,
    )
    assert prox.mean.half == pytest.approx(0.02484, abs=1e-5)
    assert (lonely.mean.value, lonely.mean.half) == (pytest.approx(-0.2), None)


def test_wilcoxon_by_hand() -> None:
    """All of six pairs favour one side: p = 2 / 2⁶. One of seven, the smallest, does not: of the 2⁷ signs, rank sums of
    0 and of 1 are as extreme: p = 2 · 2 / 2⁷."""
    assert wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 64)
    assert wilcoxon([-0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]) == pytest.approx(4 / 128)
    assert wilcoxon([0.1] * 5) is None
    assert wilcoxon([0.0] * 6) is None


def test_ranks_over_the_seeds_that_all_have(logs: Path) -> None:
    groups = grouped(load_all([logs]))
    assert ranks(groups[:2], "accuracy") == {"lr=0.1 strategy=fedavg": 2.0, "lr=0.1 strategy=fedprox": 1.0}
    assert [*ranks(groups, "accuracy").values()] == [2.0, 1.0, 3.0], "seed 0 alone"
    equal = [replace(groups[0], label=label) for label in "abc"]
    assert ranks([*equal, groups[2]], "accuracy") == {"a": 2.0, "b": 2.0, "c": 2.0, "lr=0.5 strategy=fedavg": 4.0}
    assert ranks([groups[2], replace(groups[0], runs={1: groups[0].runs[1]})], "accuracy") == {}


def test_what_a_target_took(logs: Path) -> None:
    """3 MB and 3 s a round."""
    (first, _), *_ = load_all([logs])
    assert reached(first, 0.9, "accuracy") is None
    found = reached(first, 0.6, "accuracy")
    assert found is not None
    assert (found.rounds, found.megabytes, found.seconds) == (2, pytest.approx(6.0), pytest.approx(6.0))
    head, rows = to_target(grouped(load_all([logs])), 0.6)
    assert head == ("to accuracy 60.0 %", "reached", "round", "MB", "time")
    assert rows == [
        ("lr=0.1 strategy=fedavg", "3 of 3", "2.0", "6.0", "6.0 s"),
        ("lr=0.1 strategy=fedprox", "3 of 3", "2.0", "6.0", "6.0 s"),
        ("lr=0.5 strategy=fedavg", "0 of 1", "–", "–", "–"),
    ]


def test_the_terminal_shows_means_differences_and_ranks(logs: Path) -> None:
    blocks = [block.splitlines() for block in command(f"compare {logs} --target 0.65").stdout.split("\n\n")]
    assert [" ".join(line.split()) for line in blocks[0]] == [
        "runs seeds accuracy best client accuracy worst MB time rank",
        "lr=0.1 strategy=fedavg 3 71.0 ± 2.5 % – – – 9.0 9.0 s 2",
        "lr=0.1 strategy=fedprox 3 73.0 ± 4.3 % – – – 9.0 9.0 s 1",
        "lr=0.5 strategy=fedavg 1 50.0 % – – – 9.0 9.0 s 3",
    ]
    assert [" ".join(line.split()) for line in blocks[1]] == [
        "accuracy minus that of lr=0.1 strategy=fedavg seeds difference",
        "lr=0.1 strategy=fedprox 3 +2.0 ± 2.5 points",
        "lr=0.5 strategy=fedavg 1 -20.0 points",
    ]
    assert "to accuracy 65.0 %" in blocks[2][0]
    assert "Student's t" in blocks[3][0]
    assert "7 runs" not in blocks[0]
    every = command(f"compare {logs} --runs").stdout
    assert sum(line.startswith("run-") for line in every.splitlines()) == 7


def test_six_seeds_are_tested(tmp_path: Path) -> None:
    for seed in range(6):
        run(tmp_path, seed, [700 + seed])
        run(tmp_path, seed, [712 + 2 * seed], strategy={"name": "fedprox"})
    head, (row,) = against((groups := grouped(load_all([tmp_path])))[0], groups)
    assert head[1:] == ("seeds", "difference", "p")
    assert row == ("strategy=fedprox", "6", "+1.5 ± 0.2 points", "0.031")


def test_others_may_be_held_against(logs: Path) -> None:
    text = " ".join(command(f"compare {logs} --against fedprox").stdout.split())
    assert "accuracy minus that of lr=0.1 strategy=fedprox" in text
    assert "lr=0.1 strategy=fedavg 3 -2.0 ± 2.5 points" in text
    refused_in_one_line(f"compare {logs} --against lr=0.1", "--against 'lr=0.1'", "several names", "strategy=fedprox")
    refused_in_one_line(f"compare {logs} --against scaffold", "no name has", "lr=0.5 strategy=fedavg")


def test_what_does_not_count_or_has_not_ended_is_told(logs: Path) -> None:
    """A second run of seed 0, and one that was stopped in round 2 of 6."""
    text = command(f"compare {logs}").stdout
    assert "--runs shows them" not in text
    assert "not finished, and counted" not in text
    run(logs, 0, [100, 600, 790])
    half = write_run(logs, "half", rounds=2)
    half.config.write_text(yaml.safe_dump(yaml.safe_load(half.config.read_text()) | {"optimizer": {"lr": 9}}))
    text = command(f"compare {logs}").stdout
    assert "74.0 ± 10.8 %" in text  # 0.79, 0.72, 0.71
    assert "earlier ones that do not: 1; --runs shows them" in text
    assert f"not finished, and counted as they are: {half.name}" in text


def test_epsilon_of_a_group(tmp_path: Path) -> None:
    """∞ is null in the metrics: a run without noise."""
    for seed, spent in ((0, 2.0), (1, 4.0)):
        run(tmp_path, seed, [500], epsilon=spent)
    for seed in (0, 1):
        run(tmp_path, seed, [600], strategy={"name": "fedprox"}, epsilon=None)
    head, rows = means(groups := grouped(load_all([tmp_path])))
    assert [row[head.index("ε")] for row in rows] == ["3", "∞"]
    head, rows = to_target(groups, 0.4)
    assert [row[head.index("ε")] for row in rows] == ["3", "∞"]


def test_latex_marks_the_best_and_what_may_be_as_good(logs: Path, tmp_path: Path) -> None:
    assert command(f"compare {logs} --latex {tmp_path / 'table.tex'}").exit_code == 0
    lines = (tmp_path / "table.tex").read_text().splitlines()
    assert lines[:2] == [r"\begin{tabular}{lrrrrrrrr}", r"\toprule"]
    assert r"lr=0.1 strategy=fedprox & 3 & \textbf{73.0 $\pm$ 4.3 \%} & -- &" in lines[5]
    assert r"lr=0.1 strategy=fedavg & 3 & \underline{71.0 $\pm$ 2.5 \%} & -- &" in lines[4]
    assert r"lr=0.5 strategy=fedavg & 1 & 50.0 \% &" in lines[6]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert command(f"compare {logs} --latex {tmp_path / 'no' / 'table.tex'}").exit_code == 2


HOSTILE = r"a_b & 50% $x$ #1 {y} ~^ \input{/etc/passwd}"


def test_hostile_names_are_text_in_latex(tmp_path: Path) -> None:
    run(tmp_path, 0, [1], model={"variant": HOSTILE})
    run(tmp_path, 0, [1])
    groups = grouped(load_all([tmp_path]))
    text = latex(groups)
    assert r"a\_b \& 50\% \$x\$ \#1 \{y\} \textasciitilde{}\textasciicircum{} \textbackslash{}input\{" in text
    assert math.isclose(text.count("&") - text.count(r"\&"), 8 * 3), "columns stay what they are"
    assert escaped("86 % ± 1 – α") == r"86 \% $\pm$ 1 -- $\alpha$"
    assert means(groups)[1][0][0] != means(groups)[1][1][0]


def test_the_page_shows_bands_over_seeds(logs: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert command(f"compare {logs} --plot {page}").exit_code == 0
    text = page.read_text()
    assert text.index("71.0 ± 2.5 %") < text.index("+2.0 ± 2.5 points") < text.index("Every run")
    assert "Test accuracy over seeds" in text


def test_a_band_is_the_interval_at_each_round(logs: Path) -> None:
    groups = grouped(load_all([logs]))
    runs = {group.label: [run.metrics for run, _ in group.runs.values()] for group in groups}
    figure = over_seeds(runs, "test")
    lines = {trace.name: trace for trace in figure.data if trace.fill is None and trace.name in runs}
    assert list(lines["lr=0.1 strategy=fedavg"].y) == pytest.approx([0.1, 0.6, 0.71])
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == 2, "one seed has no band"
    assert list(bands[0].x) == [3, 3], "in rounds 1 and 2 all seeds are equal: no width"
    assert list(bands[0].y) == pytest.approx([0.71 - 0.02484, 0.71 + 0.02484], abs=1e-5)
