"""How fast simulated clients are."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from tests.runs import run

from fedlens.clocks.base import clocks
from fedlens.clocks.half_normal import HalfNormal
from fedlens.clocks.lognormal import LogNormal
from fedlens.clocks.none import NoClock
from fedlens.clocks.trace import Trace
from fedlens.errors import DataError
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.run_dir import RunDir

MANY = 4000


def taken(clock, client: str = "a", seed: int = 0, count: int = MANY) -> np.ndarray:
    return np.array([clock.seconds(client, seed, number) for number in range(count)])


def test_half_normal_delays_have_the_distributions_mean_and_spread() -> None:
    """|N(0, σ²)|: mean σ √(2/π), median 0.6745 σ, variance σ² (1 − 2/π)."""
    seconds = taken(HalfNormal(scale=2.0, minimum=0.5)) - 0.5
    assert seconds.min() > 0
    assert seconds.mean() == pytest.approx(2 * math.sqrt(2 / math.pi), rel=0.05)
    assert np.median(seconds) == pytest.approx(2 * NormalDist().inv_cdf(0.75), rel=0.05)
    assert seconds.var() == pytest.approx(4 * (1 - 2 / math.pi), rel=0.1)


def test_log_normal_clients_are_slow_for_good() -> None:
    clock = LogNormal(median=3.0, sigma=0.8)
    by_client = np.log([clock.seconds(f"client{index}", 0, index) / 3.0 for index in range(MANY)])
    assert by_client.mean() == pytest.approx(0, abs=0.05)
    assert by_client.std() == pytest.approx(0.8, rel=0.05)
    assert len(set(taken(clock, count=10))) == 1
    jittery = np.log(taken(LogNormal(sigma=0.0, jitter=0.3)))
    assert jittery.std() == pytest.approx(0.3, rel=0.05)


def test_draws_follow_from_the_seed_and_the_start() -> None:
    clock = HalfNormal()
    assert taken(clock, count=5).tolist() == taken(clock, count=5).tolist()
    assert not set(taken(clock, count=5)) & set(taken(clock, seed=1, count=5))


def test_without_a_clock_all_are_equally_fast() -> None:
    assert set(taken(NoClock(), count=5)) == {1.0}
    assert not NoClock.virtual


def test_drop_outs_come_with_their_probability() -> None:
    clock = HalfNormal(dropout=0.3)
    assert np.mean([clock.lost("a", 0, number) for number in range(MANY)]) == pytest.approx(0.3, abs=0.03)
    assert not any(HalfNormal().lost("a", 0, number) for number in range(10))


def test_clients_are_on_for_their_share_of_every_cycle() -> None:
    clock = HalfNormal(available=0.25, cycle=40.0)
    moments = np.arange(0, 400, 0.1)
    on = np.array([clock.next_on("a", 0, now) == now for now in moments])
    assert on.mean() == pytest.approx(0.25, abs=0.01)
    assert np.count_nonzero(np.diff(on.astype(int)) == 1) == 10, "it comes on once a cycle"
    comes = [clock.next_on("a", 0, now) for now in moments[~on]]
    assert all(clock.next_on("a", 0, moment) == moment for moment in comes)
    assert all(0 < moment - now <= 30.0001 for moment, now in zip(comes, moments[~on], strict=True))
    assert len({clock.next_on(f"client{index}", 0, 1000.0) for index in range(20)}) > 5, "cycles begin apart"


def test_a_trace_gives_what_was_measured(tmp_path) -> None:
    path = tmp_path / "times.csv"
    path.write_text("client,seconds\nnorth,2.5\nsouth,1\nsouth,4\n\n")
    clock = Trace(path=path)
    assert set(taken(clock, "north", count=5)) == {2.5}
    assert set(taken(clock, "south", count=30)) == {1.0, 4.0}
    assert clock.incompatibility(["north", "south"]) is None
    assert clock.incompatibility(["north", "east", "west"]) == (
        f"path: {path} has no line for east and 1 other client(s); add them"
    )


def test_a_trace_may_come_from_a_spreadsheet(tmp_path) -> None:
    path = tmp_path / "times.csv"
    path.write_text("client,seconds\nnorth,2.5\n", encoding="utf-8-sig", newline="\r\n")
    assert Trace(path=path).seconds("north", 0, 0) == 2.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("north,2\n", "the first line of .* must be client,seconds"),
        ("", "the first line of .* must be client,seconds"),
        ("client,seconds\nnorth,fast\n", "line 2: 'north,fast' is no client and a number of seconds above 0"),
        ("client,seconds\nnorth,1\nsouth,0\n", "line 3: 'south,0'"),
        ("client,seconds\nnorth\n", "line 2: 'north'"),
        ("client,seconds\nnorth,inf\n", "line 2: 'north,inf'"),
    ],
)
def test_a_trace_that_is_none(tmp_path, text: str, said: str) -> None:
    path = tmp_path / "times.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        Trace(path=path).seconds("north", 0, 0)


def test_a_trace_that_is_not_there(tmp_path) -> None:
    with pytest.raises(DataError, match=r"clock\.path: .*gone\.csv cannot be read"):
        Trace(path=tmp_path / "gone.csv").incompatibility(["north"])


def test_every_clock_is_listed() -> None:
    assert clocks.names() == ["half_normal", "lognormal", "none", "trace"]


def test_each_client_of_a_round_tells_its_virtual_seconds(tmp_path) -> None:
    """A synchronous round lasts as long as its slowest client; workers that add up their clients tell them, too."""
    done = run(tmp_path, "clock.name=lognormal", "clock.sigma=2", "runtime.workers=2")
    lines = read_metrics(RunDir.open(done.folder).metrics)
    ends = [0.0, *(line["virtual_seconds"] for line in lines)]
    for line, began, end in zip(lines, ends, ends[1:], strict=False):
        seconds = [one["metrics"]["virtual_seconds"] for one in line["cohort"]]
        assert max(seconds) == pytest.approx(end - began)
        assert len(set(seconds)) == len(seconds)
