"""Edge aggregators: the mean of all, whoever adds up first; and the bytes of both hops, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.problems import refuses
from torch.utils.data import TensorDataset

import fedlens
from fedlens.aggregation.edges import Edges, EdgeSums
from fedlens.aggregation.mean import WeightedMean
from fedlens.build.load import load
from fedlens.core.types import ClientReport, ClientResult, MeanMetric
from fedlens.errors import ConfigError
from fedlens.reports.compare import as_table, compare_runs
from fedlens.reports.figures.rounds import communication
from fedlens.reports.html import render
from fedlens.reports.load import load_run
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.result import result_lines
from fedlens.tracking.run_dir import RunDir

NAMES = [f"client{number}" for number in range(12)]
BY_NUMBER = type("ByNumber", (Edges,), {"of": lambda self, client: int(client.removeprefix("client")) % self.number})
"""Client 7 of 3 edges belongs to edge 1."""


def answer(client: str, down: float = 100.0) -> ClientResult:
    number = int(client.removeprefix("client"))
    report = ClientReport(client, 1.0 + number, {"bytes_down": MeanMetric(down, 1)})
    generator = torch.Generator().manual_seed(number)
    return ClientResult(1, "train", report, {"w": torch.randn(5, generator=generator)}, {"e": torch.ones(2)})


def added(aggregator, names=NAMES):
    for name in names:
        aggregator.add(answer(name))
    return aggregator


def test_the_sum_of_sums_is_the_flat_mean() -> None:
    flat, edges = (added(one).result() for one in (WeightedMean(), EdgeSums(WeightedMean, BY_NUMBER(3, 0))))
    assert torch.allclose(edges.delta["w"], flat.delta["w"], rtol=0, atol=1e-6)
    assert torch.equal(edges.extra["e"], flat.extra["e"])
    assert (edges.weight, edges.count) == (flat.weight, flat.count) == (78.0, 12)


def test_the_same_order_gives_the_same_bits() -> None:
    """One edge adds up in the order of the flat mean; the server has one sum to add."""
    flat, edge = (added(one).result() for one in (WeightedMean(), EdgeSums(WeightedMean, Edges(1, 0))))
    assert torch.equal(edge.delta["w"], flat.delta["w"])


def test_both_hops_of_a_round_by_hand() -> None:
    """Three edges have clients; each gets 100 bytes once, whatever it hands on, and sends 5 + 2 numbers of 4 bytes."""
    total = added(EdgeSums(WeightedMean, BY_NUMBER(5, 0)), ["client0", "client5", "client1", "client3"]).result()
    assert total.measures == {"traffic/edges_down": 3 * 100, "traffic/edges_up": 3 * 7 * 4}
    assert EdgeSums(WeightedMean, Edges(3, 0)).result() is None


def test_workers_send_a_sum_for_each_edge() -> None:
    edges = BY_NUMBER(3, 0)
    alone = added(EdgeSums(WeightedMean, edges)).result()
    server = EdgeSums(WeightedMean, edges)
    for share in (NAMES[:5], NAMES[5:]):
        partials = added(EdgeSums(WeightedMean, edges), share).partials(1)
        assert [partial.edge for partial in partials] == [0, 1, 2]
        for partial in partials:
            assert {edges.of(report.client) for report in partial.reports} == {partial.edge}
            server.merge(partial)
    total = server.result()
    assert torch.allclose(total.delta["w"], alone.delta["w"], rtol=0, atol=1e-6)
    assert total.measures == alone.measures == {"traffic/edges_down": 300, "traffic/edges_up": 84}
    with pytest.raises(ValueError, match="cannot be divided"):
        server.merge(added(WeightedMean()).partial(1))


def test_a_client_stays_at_its_edge_and_the_seed_decides() -> None:
    found = [Edges(10, 3).of(name) for name in NAMES]
    assert found == [Edges(10, 3).of(name) for name in NAMES] != [Edges(10, 4).of(name) for name in NAMES]
    counts = torch.bincount(torch.tensor([Edges(10, 3).of(f"client{number}") for number in range(5000)]))
    assert len(counts) == 10
    assert (counts - 500).abs().max() < 110  # Binomial(5000, 0.1): deviation 21


QUICK = ("model.name=lenet", "federated.num_rounds=1", "federated.evaluate_every=0", "tracking.tensorboard=false")
PLAIN = ("tracking.report=false", "federated.evaluate_clients_every=0", "data.partition.scheme=iid")
DATA = TensorDataset(torch.randint(0, 255, (120, 1, 28, 28), dtype=torch.uint8), torch.arange(120) % 3)
PRIVATE = ("privacy.mode=central", "privacy.clip=0.1", "privacy.delta=1e-3", "federated.fraction_fit=0.7")
SAME_NOISE = ("privacy.noise_multiplier=1", "privacy.insecure_seed=5")


def run(folder: Path, edges: int, *overrides: str):
    told = (*QUICK, *PLAIN, f"tracking.dir={folder}", f"federated.edges={edges}", *overrides)
    return fedlens.run(None, *told, show=False, data=DATA)


def lines(found) -> list[dict]:
    return read_metrics(found.folder / "metrics.jsonl")


def states(one, other):
    """The two models' tensors, side by side."""
    return zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory):
    return run(tmp_path_factory.mktemp("flat"), 0, "runtime.name=in_process")


@pytest.mark.parametrize("runtime", ["in_process", "local"])
def test_a_run_with_edges_is_the_same_run(tmp_path: Path, flat, runtime: str) -> None:
    edges = run(tmp_path, 4, f"runtime.name={runtime}")
    assert all(torch.allclose(one, other, rtol=0, atol=1e-5) for one, other in states(flat, edges))
    size = sum(value.nbytes for value in edges.model.state_dict().values())
    (line,), (plain,) = lines(edges), lines(flat)
    used = len({Edges(4, 0).of(client["client"]) for client in line["cohort"]})
    assert 1 < used <= 4
    assert line["measures"]["traffic/edges_up"] == line["measures"]["traffic/edges_down"] == used * size
    assert line["bytes_up"] == plain["bytes_up"] == len(line["cohort"]) * size
    assert "traffic/edges_up" not in plain["measures"]


def test_what_the_server_and_its_edges_send_is_told(tmp_path: Path, flat) -> None:
    edges = run(tmp_path / "edges", 2, "runtime.name=in_process")
    megabytes = 2 * 2 * sum(value.nbytes for value in edges.model.state_dict().values()) / 1e6
    told = result_lines(lines(edges), RunDir(edges.folder))
    assert told["  server and edges"] == f"{megabytes:.1f} MB ({megabytes / 2:.1f} down, {megabytes / 2:.1f} up)"
    assert "  server and edges" not in result_lines(lines(flat), RunDir(flat.folder))
    assert communication(lines(edges)).data[-1].y.tolist() == pytest.approx([megabytes])
    assert [trace.name for trace in communication(lines(flat)).data] == ["clients → server", "server → clients"]
    assert f"the server sent them {megabytes / 2:.1f} MB" in render(load_run(edges.folder))
    head, cells = as_table(compare_runs([flat.folder, edges.folder]))
    assert [dict(zip(head, row, strict=True))["edges MB"] for row in cells] == ["–", f"{megabytes:.1f}"]


def test_noise_is_added_once_and_each_client_is_clipped(tmp_path: Path) -> None:
    flat, edges = (run(tmp_path / str(number), number, *PRIVATE, *SAME_NOISE) for number in (0, 4))
    assert all(torch.allclose(one, other, rtol=0, atol=1e-5) for one, other in states(flat, edges))
    assert (flat.folder / "privacy.jsonl").read_text() == (edges.folder / "privacy.jsonl").read_text()
    assert lines(flat)[0]["measures"]["privacy/epsilon"] == lines(edges)[0]["measures"]["privacy/epsilon"]
    silent = run(tmp_path / "silent", 4, *PRIVATE, "privacy.noise_multiplier=0", "privacy.insecure_seed=5")
    moved = max(float((one - other).abs().max()) for one, other in states(edges, silent))
    assert moved > 1e-3  # what is compared above has noise in it


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("aggregation.name=median", "aggregation.name=median needs every client's update at the server"),
        ("server.max_weight_share=0.5", "server.max_weight_share needs every"),
        ("tracking.leave_one_out=1", "tracking.leave_one_out needs every"),
        ("schedule.name=fedbuff", "schedule.name=fedbuff needs every"),
        ("privacy.secure_aggregation=true", "privacy.secure_aggregation needs every"),
    ],
)
def test_what_needs_more_than_sums_is_refused(overrides: str, line: str) -> None:
    with refuses(("incompatible", "federated.edges")) as caught:
        load(None, ["federated.edges=3", *overrides.split()])
    assert f"federated.edges = 3: {line}" in str(caught.value)


def test_edges_that_would_have_no_clients_or_nothing_to_add_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"federated.edges = 11: the data has 10 clients"):
        run(tmp_path, 11)
    with refuses(("idle_key", "federated.edges")):
        load(None, ["federated.edges=3", "personalization.name=local"])
    with refuses(("idle_key", "federated.edges")):
        load(None, ["federated.edges=3"], use="server")
