"""The report in a real browser that reaches no network: everything is drawn, in its place, without a complaint."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fake_runs import federated_data, record, save_data, write_page, write_run

from fedlens.core.records import ClientEvaluation, Evaluation
from fedlens.data.types import ClientRows
from fedlens.explain.explain import explain
from fedlens.reports.html import write_report
from fedlens.reports.sheet import Sheet
from fedlens.tracking.metrics import MetricsFile
from fedlens.tracking.run_dir import RunDir

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=8000 --enable-logging=stderr "
)
MEASURE = """
<script>
addEventListener(document.querySelector("script.figure") ? "drawn" : "load", () => setTimeout(() => {
  const wide = (element) => Math.round(element.getBoundingClientRect().width);
  const plots = [...document.querySelectorAll(".plot")].map((plot) => ({
    title: plot.querySelector("h3").textContent,
    card: wide(plot),
    drawings: [...plot.querySelectorAll("svg.main-svg")].map(wide),
    shapes: plot.querySelectorAll(".trace, .hm").length,
    ticks: [...plot.querySelectorAll(".ytick text")].map((tick) => tick.textContent),
  }));
  const asked = performance.getEntriesByType("resource").map((entry) => entry.name);
  const figures = [...document.querySelectorAll(".runs td:nth-child(n+6)")];
  const lines = (cell) => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return range.getClientRects().length;
  };
  const wholePage = {wide: document.documentElement.scrollWidth, broken: window.broken ?? null};
  const page = {plots, asked, lines: figures.map(lines), ...wholePage};
  document.body.insertAdjacentHTML("beforeend", `<pre id="measured">${btoa(JSON.stringify(page))}</pre>`);
}, 300));
</script>
</body>"""
"""What is added to the page to have it measure itself once its plots have taken their places."""


@dataclass(frozen=True)
class Seen:
    """A page as the browser shows it, and what it says on its console."""

    plots: list[dict[str, Any]]
    asked: list[str]
    lines: list[int]
    wide: int
    broken: object
    console: list[str]


def look_at(page: Path, width: int) -> Seen:
    measured, console = _shown(page, MEASURE, width)
    return Seen(**measured, console=console)


def look_at_text(page: Path, script: str) -> Any:
    """What the body of an async function gives once the page is drawn."""
    run = f"(async () => {{{script}}})()"
    put = 'document.body.insertAdjacentHTML("beforeend", `<pre id="measured">${btoa(JSON.stringify(it))}</pre>`)'
    added = f'<script>addEventListener("drawn", () => {run}.then((it) => {put}));</script></body>'
    measured, console = _shown(page, added, 1300)
    assert console == []
    return measured


def _shown(page: Path, added: str, width: int) -> tuple[Any, list[str]]:
    """What the script that is `added` to the page has measured, and what the page says on its console."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser, "this test needs chromium: `make system` installs it"
    copy = page.with_name("measured.html")
    copy.write_text(added.join(page.read_text(encoding="utf-8").rsplit("</body>", 1)), encoding="utf-8")
    own = [f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},2000", "--dump-dom"]
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    done = subprocess.run(
        [browser, *FLAGS.split(), offline, *own, copy.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    found = re.search(r'<pre id="measured">([A-Za-z0-9+/=]+)</pre>', done.stdout)
    assert found, "the page's scripts did not run to their end"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(base64.b64decode(found[1])), console


def crowded(base: Path) -> RunDir:
    """A run of 100 clients."""
    run = write_run(base, rounds=0)
    clients = tuple(ClientEvaluation(f"hospital {n}", n / 99, 1.0, 10, trained=n % 7 > 0) for n in range(100))
    metrics = MetricsFile(run.metrics)
    metrics.round(dataclasses.replace(record(1), clients=clients))
    metrics.close()
    none = np.empty(0, np.int64)
    rows = tuple(ClientRows(one.client, np.arange(n % 48), none, none) for n, one in enumerate(clients))
    save_data(run, dataclasses.replace(federated_data(), clients=rows))
    return run


def narrow(base: Path) -> RunDir:
    """A run of 6 rounds whose accuracies lie between 84.1 % and 84.6 %, and which asked no client."""
    run = write_run(base, rounds=0)
    metrics = MetricsFile(run.metrics)
    for number in range(1, 7):
        right = 840 + number
        scored = Evaluation(1.0, np.array([[right, 1000 - right], [1000 - right, right]]))
        metrics.round(dataclasses.replace(record(number), test=scored, validation=scored))
    metrics.close()
    return run


@pytest.mark.parametrize("width", [1300, 500])
@pytest.mark.parametrize(
    ("make", "plots"), [(write_run, 12), (crowded, 12), (narrow, 11), (lambda base: write_run(base, rounds=0), 2)]
)
def test_every_plot_is_drawn_inside_its_card(make: Any, plots: int, width: int, tmp_path: Path) -> None:
    run = make(tmp_path).path
    seen = look_at(write_report(run), width)
    assert len(seen.plots) == plots + len(explain(run)), "each finding has a plot, too"
    for plot in seen.plots:
        assert plot["drawings"], plot
        assert plot["shapes"], plot
        assert max(plot["drawings"]) <= plot["card"], plot
        assert len(set(plot["ticks"])) == len(plot["ticks"]), plot
        assert max(plot["drawings"]) >= 0.8 * plot["card"], plot  # it fills the card, too
    assert seen.wide <= width
    assert seen.console == []
    assert seen.asked == []
    assert seen.broken is None  # the class that is called <script>window.broken=1</script>


def test_a_comparison_scrolls_its_table_and_breaks_no_figure(tmp_path: Path) -> None:
    write_run(tmp_path, "fedavg-mobilenetv3_large_100")
    write_run(tmp_path, "other")
    write_page([tmp_path], tmp_path / "cmp.html")
    for width in (1300, 500):  # the narrowest window of a desktop browser
        seen = look_at(tmp_path / "cmp.html", width)
        assert seen.wide <= width, "the table scrolls, not the page"
        assert set(seen.lines) == {1}, "each figure is on one line"


CHOOSE = """
<script>
addEventListener("load", () => {
  const [choice, maps] = ["class", "maps"].map((id) => document.getElementById(id));
  choice.value = "1";
  maps.checked = false;
  for (const control of [choice, maps]) control.dispatchEvent(new Event("change"));
  const shown = (kind) => [...document.querySelectorAll(kind)].filter((one) => one.getClientRects().length).length;
  window.broken = {pictures: shown(".sheet figure"), maps: shown(".map"), injected: window.broken ?? null};
});
</script>
</body>"""
"""Chooses the second class on a sheet of pictures, and takes the maps away."""


@pytest.mark.parametrize("width", [1300, 500])
def test_a_sheet_of_pictures_shows_one_class_and_takes_maps_away(width: int, tmp_path: Path) -> None:
    names = [tmp_path / f"{'long' * 30}{number}<script>window.broken=1</script>.png" for number in range(90)]
    sheet = Sheet(names)
    for number, name in enumerate(names):
        view = np.full((160, 160, 3), number, np.uint8)
        label = "<script>window.broken=1</script>" if number % 3 else "cat"
        sheet.add(name, label, number / 90, view, np.eye(7, dtype=np.float32))
    page = tmp_path / "sheet.html"
    page.write_text(CHOOSE.join(sheet.render("a model", []).rsplit("</body>", 1)), encoding="utf-8")

    seen = look_at(page, width)

    assert seen.broken == {"pictures": 60, "maps": 0, "injected": None}
    assert seen.wide <= width
    assert (seen.console, seen.asked) == ([], [])
