"""Where `fedlens predict` puts its answers for many pictures."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.brightness import by_brightness, picture
from typer.testing import CliRunner

from fedlens.cli.main import app
from fedlens.inference import predict as predicting
from fedlens.reports import sheet

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

HOSTILE = "<img src=x onerror=alert(1)>&\"'.png"


def run(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture
def trained() -> Path:
    return by_brightness(Path("run"))


@pytest.fixture
def trip() -> Path:
    """Five pictures, three of them bright, and one that is none."""
    for name, value in {"1.png": 255, "2.png": 0, "10.png": 255, "b/1.png": 0, f"b/{HOSTILE}": 250}.items():
        picture(Path("trip") / name, value)
    Path("trip/3.png").write_text("no picture")
    return Path("trip")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_many_pictures_are_a_line_each(trained: Path) -> None:
    for number in range(11):
        picture(Path("trip") / f"{number}.png", 255 * (number % 2))
    lines = run(trained, "trip").stdout.splitlines()
    assert lines[:2] == [" 99.3%  dark  trip/0.png", "100.0%  bright  trip/1.png"]
    assert [line.split("/")[1] for line in lines] == [f"{number}.png" for number in range(11)]


def test_a_table_for_other_programs(trained: Path, trip: Path) -> None:
    done = run(trained, trip, "--csv", "a.csv", "--top", "2")

    assert done.exit_code == 1  # one is none
    assert done.stdout.splitlines() == ["        3  bright", "        2  dark"]
    assert done.stderr.splitlines() == [
        "trip/3.png: not an image that OpenCV or Pillow can decode, or a damaged one",
        "csv   a.csv",
        "1 of 6 images could not be read",
    ]
    rows = read(Path("a.csv"))
    names = [f"trip/{name}" for name in ("1.png", "2.png", "3.png", "10.png", "b/1.png", f"b/{HOSTILE}")]
    assert [row["image"] for row in rows] == names
    assert [row["class"] for row in rows] == ["bright", "dark", "", "bright", "dark", "bright"]
    assert rows[1]["class_2"] == "class 2"
    assert float(rows[1]["probability_2"]) == pytest.approx(1 / (1 + np.exp(5)), abs=1e-4)  # logits 10, 0, 5
    assert [row["error"] for row in rows if row["error"]] == [
        "not an image that OpenCV or Pillow can decode, or a damaged one"
    ]
    assert {len(row) for row in rows} == {6}


def test_more_classes_wanted_than_there_are(trained: Path, trip: Path) -> None:
    assert run(trained, trip / "1.png", "--csv", "a.csv", "--top", "9").exit_code == 0
    (row,) = read(Path("a.csv"))
    assert (row["class_3"], row["class_9"], row["error"]) == ("class 2", "", "")


def test_the_size_of_batches_changes_nothing(trained: Path, trip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(trained, trip, "--csv", "at-once.csv")
    together: list[int] = []
    answered = predicting.Predictor._answered
    monkeypatch.setattr(predicting, "BATCH", 2)
    monkeypatch.setattr(
        predicting.Predictor, "_answered", lambda self, *files: together.append(len(files[0])) or answered(self, *files)
    )
    run(trained, trip, "--csv", "by-two.csv")
    assert together == [2, 2, 2]
    assert read(Path("by-two.csv")) == read(Path("at-once.csv"))


def test_what_was_written_before_ctrl_c_stays(trained: Path, trip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = predicting.Predictor._answered

    def stopped(self, files, loaded):
        if trip / "10.png" in files:
            raise KeyboardInterrupt
        return answered(self, files, loaded)

    monkeypatch.setattr(predicting, "BATCH", 3)
    monkeypatch.setattr(predicting.Predictor, "_answered", stopped)
    done = run(trained, trip, "--csv", "a.csv")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (130, "Interrupted.")
    assert [row["class"] for row in read(Path("a.csv"))] == ["bright", "dark", ""]


def test_a_page_of_pictures(trip: Path) -> None:
    trained = by_brightness(Path("run"), ("</script><b>dark", "bright"))
    done = run(trained, trip, "--html", "sheet.html")

    assert done.exit_code == 1
    page = Path("sheet.html").read_text(encoding="utf-8")
    assert page.count("<figure") == page.count('src="data:image/png;base64,') == 5
    assert "<img src=x" not in page
    assert "</script><b>" not in page
    assert "b/&lt;img src=x onerror=alert(1)&gt;&amp;&quot;&#x27;.png" in page
    assert not re.search(r"https?://|plotly", page)  # it is whole by itself
    assert '<option value="0">bright (3)</option><option value="1">&lt;/script&gt;&lt;b&gt;dark (2)</option>' in page
    assert re.findall(r'<figure data-class="(\d)"', page) == list("01010")
    assert "trip/3.png</td>" in page
    assert 'class="map"' not in page


def test_a_page_has_room_for_so_many_and_says_so(trained: Path, trip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "MOST", 2)
    run(trained, trip, "--html", "sheet.html", "--csv", "a.csv")
    page = Path("sheet.html").read_text(encoding="utf-8")
    assert page.count("<figure") == 2
    assert "The first 2 of 5 pictures are shown." in page
    assert "all classes (5)" in page
    assert len(read(Path("a.csv"))) == 6


def test_why_on_the_page(trained: Path, trip: Path) -> None:
    assert run(trained, trip / "1.png", trip / "2.png", "--html", "sheet.html", "--why").exit_code == 0
    page = Path("sheet.html").read_text(encoding="utf-8")
    assert page.count('class="map"') == 2
    assert 'id="maps"' in page
    assert sorted(path.name for path in Path().iterdir()) == ["run", "sheet.html", "trip"]


def test_why_as_pictures_in_a_new_folder() -> None:
    """The model looks at the lower right corner alone: only there is the second picture redder than the first."""
    trained = by_brightness(Path("run"), places=range(15, 16))
    for name in ("a/1.png", "b/1.png"):
        picture(Path("trip") / name, 255)

    done = run(trained, "trip", "--why")

    assert (done.exit_code, done.stderr) == (0, "why   why\n")
    assert sorted(map(str, Path("why").rglob("*.png"))) == ["why/a/1.png.png", "why/b/1.png.png"]
    pixels = np.asarray(Image.open("why/a/1.png.png")).astype(int)
    assert pixels.shape == (320, 640, 3)
    assert (pixels[:, :320] == 255).all()
    redder = (pixels[:, 320:, 0] - pixels[:, 320:, 2]) > 60
    assert redder[200:, 200:].sum() == redder.sum() > 1000
    assert run(trained, "trip", "--why").stderr == "why   why-2\n"  # the first one is kept


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--csv", "none/a.csv"], "--csv none/a.csv: cannot be written (No such file or directory); give another file"),
        (["--html", "trip"], "--html trip: cannot be written (it is a folder); give another file"),
        (["--html", "none/a.html"], "--html none/a.html: cannot be written (no folder there in which you may write)"),
        (["--why-dir", "trip"], "--why-dir trip: the folder is not empty; give a new one"),
        (["--why-dir", "run/model/model.json"], "--why-dir run/model/model.json: cannot be written (File exists)"),
    ],
)
def test_what_cannot_be_written_is_one_line_before_any_work(
    trained: Path, trip: Path, options: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting.Predictor, "answers", lambda *_, **__: pytest.fail("it has begun"))
    done = run(trained, trip, *options)
    assert done.exit_code == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith(line)


def test_display_names_for_people_and_beside_the_class_for_programs(trained: Path, trip: Path) -> None:
    Path("names.json").write_text('{"bright": "<b>明亮</b>"}', encoding="utf-8")
    white = trip / "1.png"

    table = run(trained, white, "--names", "names.json").stdout
    totals = run(trained, trip, "--names", "names.json", "--csv", "a.csv", "--top", "2", "--html", "sheet.html").stdout
    line = run(trained, white, "--names", "names.json", "--json", "--top", "2").stdout

    assert "<b>明亮</b>" in table
    assert "bright" not in table
    assert totals.splitlines() == ["        3  <b>明亮</b>", "        2  dark"]
    first, *_ = rows = read(Path("a.csv"))
    assert list(first) == ["image", "class", "display", "probability", "class_2", "display_2", "probability_2", "error"]
    assert (first["class"], first["display"], first["class_2"], first["display_2"]) == (
        "bright", "<b>明亮</b>", "dark", "dark"
    )  # fmt: skip
    assert sum(row["error"].startswith("not an image") for row in rows) == 1
    names = [(guess["class"], guess["display"]) for guess in json.loads(line)["top"]]
    assert names == [("bright", "<b>明亮</b>"), ("dark", "dark")]
    page = Path("sheet.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;明亮&lt;/b&gt; (3)" in page
    assert "bright" not in re.sub(r"<script>.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL)
    for number in range(11):
        picture(Path("many") / f"{number}.png", 255)
    assert run(trained, "many", "--names", "names.json").stdout.startswith("100.0%  <b>明亮</b>  many/0.png\n")


def test_display_names_that_do_not_fit_end_it_before_any_work(
    trained: Path, trip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting.Predictor, "answers", lambda *_, **__: pytest.fail("it has begun"))
    done = run(trained, trip, "--names", "fr")
    line = "--names fr: no such file, and no language that ships; these do: en, zh\n"
    assert (done.exit_code, done.stderr) == (2, line)


def test_no_picture_at_all_writes_nothing(trained: Path) -> None:
    Path("a.csv").write_text("kept")
    done = run(trained, "*.jpg", "--csv", "a.csv", "--html", "a.html")
    assert (done.exit_code, done.stderr) == (1, "*.jpg: no image file matches this pattern\n")
    assert Path("a.csv").read_text() == "kept"
    assert not Path("a.html").exists()
