"""Methods against what they cost and against each other at every client; figures for papers; sorting and filtering."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from tests.commands import command, refused_in_one_line
from tests.fake_runs import write_page, write_run
from tests.reports.test_browser import look_at_text

from fedlens.reports.compare import load_all
from fedlens.reports.figures.base import COLOURS
from fedlens.reports.figures.runs import clients_of_two, traded
from fedlens.reports.groups import Group, grouped
from fedlens.reports.paper import write_figures
from fedlens.reports.plotted import at_clients, curves, trades
from fedlens.tracking.run_dir import RunDir


def run(base: Path, strategy: str, seed: int, accuracy: float, megabytes: float, clients: dict[str, float]) -> RunDir:
    """One round, of that test accuracy and client accuracies."""
    folder = write_run(base, f"{strategy}-{seed}", rounds=3, strategy=strategy)
    config = yaml.safe_load(folder.config.read_text()) | {"seed": seed}
    folder.config.write_text(yaml.safe_dump(config))
    *_, line = map(json.loads, folder.metrics.read_text().splitlines())
    line |= {"round": 1, "bytes_up": megabytes * 1e6, "bytes_down": 0}
    line["test"]["accuracy"] = accuracy
    line["clients"]["by_client"] = [
        {**line["clients"]["by_client"][0], "client": name, "accuracy": value} for name, value in clients.items()
    ]
    folder.metrics.write_text(json.dumps(line) + "\n")
    return folder


@pytest.fixture
def groups(tmp_path: Path) -> list[Group]:
    """a: 80 % for 1 MB; b: 70 % for 2 MB; c: 90 % for 3 MB. With two seeds, but for c."""
    run(tmp_path / "logs", "a", 0, 0.79, 1, {"north": 0.5, "south": 0.9})
    run(tmp_path / "logs", "a", 1, 0.81, 1, {"north": 0.7, "south": 0.9})
    run(tmp_path / "logs", "b", 0, 0.70, 2, {"north": 0.6, "south": 0.4})
    run(tmp_path / "logs", "b", 1, 0.70, 2, {"north": 0.8, "south": 0.6})
    run(tmp_path / "logs", "c", 0, 0.90, 3, {"north": 0.1, "west": 0.2})
    return grouped(load_all([tmp_path / "logs"]))


def test_what_no_other_method_beats_in_both(groups: list[Group]) -> None:
    found = trades(groups, "megabytes")
    assert [(one.label, one.cost.value, round(one.accuracy.value, 6), one.best) for one in found] == [
        ("strategy=a", 1, 0.8, True), ("strategy=b", 2, 0.7, False), ("strategy=c", 3, 0.9, True),
    ]  # fmt: skip
    assert trades(groups, "epsilon") == []
    twins = [groups[0], Group("twin", groups[0].runs)]
    assert [one.best for one in trades(twins, "megabytes")] == [True, True]  # neither is better in anything


def test_two_methods_at_every_client_on_the_seeds_that_both_have(groups: list[Group]) -> None:
    a, b, c = groups
    assert at_clients(a, b) == {
        "north, seed 0": (0.5, 0.6), "south, seed 0": (0.9, 0.4),
        "north, seed 1": (0.7, 0.8), "south, seed 1": (0.9, 0.6),
    }  # fmt: skip
    assert at_clients(a, c) == {"north, seed 0": (0.5, 0.1)}
    assert at_clients(a, Group("later", {7: c.runs[0]})) == {}


def test_figures_for_a_paper(groups: list[Group], tmp_path: Path) -> None:
    files = write_figures(groups, groups[0], tmp_path / "figures")
    names = ["accuracy", "accuracy-megabytes", "clients"]
    assert [file.name for file in files] == [f"{name}.{form}" for name in names for form in ("svg", "pdf")]
    first, *_ = (file.read_text() for file in files if file.suffix == ".svg")
    assert re.search(r"<text[^>]*>strategy=b</text>", first)  # text, which can be edited and searched
    assert 'width="237.6pt"' in first  # 3.3 inches
    assert all(file.read_bytes().startswith(b"%PDF") for file in files if file.suffix == ".pdf")
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in write_figures(groups, groups[0], tmp_path / "figures")] == before


def test_a_method_has_one_colour_in_all_plots(groups: list[Group]) -> None:
    labels = [group.label for group in groups]
    points = trades(groups, "megabytes")
    colours = {trace.name: trace.marker.color for trace in traded(points[::-1], "MB", labels).data[1:]}
    assert colours == dict(zip(labels, COLOURS, strict=False))
    clients = clients_of_two({"strategy=c": {"north": (0.1, 0.2)}}, "strategy=a", labels)
    assert clients.data[1].marker.color == COLOURS[2]


def test_many_methods_have_room_for_their_names(groups: list[Group], tmp_path: Path) -> None:
    many = [Group(f"strategy=fedprox mu=0.{number:02} optimizer.lr=0.01", groups[0].runs) for number in range(30)]
    first, *_ = write_figures(many, many[0], tmp_path)
    text = first.read_text()
    assert all(group.label in text for group in many)
    assert float(re.search(r'height="([\d.]+)pt"', text)[1]) > 72 * 30 * 0.14


def test_a_name_is_no_formula(groups: list[Group], tmp_path: Path) -> None:
    hostile = [Group(r"a$\bad{$ <&", groups[0].runs), Group("北京", groups[1].runs)]
    first, *_ = write_figures(hostile, hostile[0], tmp_path)
    assert r"a$\bad{$ &lt;&amp;" in first.read_text()


def test_the_command_writes_figures(groups: list[Group], tmp_path: Path) -> None:
    result = command(f"compare {tmp_path}/logs --figures {tmp_path}/out")
    assert result.exit_code == 0
    assert f"{tmp_path}/out/clients.pdf" in result.stderr
    (tmp_path / "file").touch()
    refused_in_one_line(f"compare {tmp_path}/logs --figures {tmp_path}/file/out", "--figures", "cannot be written")
    empty = write_run(tmp_path / "empty", rounds=0)
    refused_in_one_line(f"compare {empty.path} --figures {tmp_path}/none", "none of the runs has an accuracy yet")


def test_the_page_has_the_plots(groups: list[Group], tmp_path: Path) -> None:
    write_page([tmp_path / "logs"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert 'id="accuracy-and-communication"' in page
    assert 'id="clients-with-two-methods"' in page
    assert "better off than with strategy=a." in page
    assert curves(groups)["strategy=a"][0][1].value == pytest.approx(0.8)


ACT = """
const wait = () => new Promise((done) => setTimeout(done, 200));
const first = () => [...document.querySelectorAll("table.runs")].map((table) => table.rows[1].cells[0].textContent);
const heads = [...document.querySelectorAll("table.runs")][0].rows[0].cells;
const accuracy = [...heads].find((head) => head.textContent === "accuracy");
accuracy.click();
const down = first()[0];
accuracy.click();
const up = first()[0];
const field = document.getElementById("filter");
field.value = "strategy=b";
field.dispatchEvent(new Event("input"));
await wait();
const rows = [...document.querySelectorAll("table.runs")[0].rows].slice(1).filter((row) => !row.hidden);
const plot = document.getElementById("accuracy-and-communication");
const lines = plot.data.filter((trace) => trace.visible).map((trace) => trace.name);
return { down, up, rows: rows.map((row) => row.cells[0].textContent), lines };
"""


@pytest.mark.slow
def test_a_click_sorts_and_the_field_filters(groups: list[Group], tmp_path: Path) -> None:
    write_page([tmp_path / "logs"], tmp_path / "page.html")
    assert look_at_text(tmp_path / "page.html", ACT) == {
        "down": "strategy=c", "up": "strategy=b", "rows": ["strategy=b"], "lines": ["best for its cost", "strategy=b"],
    }  # fmt: skip
