"""`fedlens search`."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.brightness import by_brightness, like_texts, picture
from typer.testing import CliRunner

from fedlens.cli.main import app
from fedlens.cli.search_outputs import _tiles
from fedlens.data.cached import contents
from fedlens.errors import DataError
from fedlens.inference.feature_files import FeatureFile, Features
from fedlens.inference.search import Match

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

NIGHT, SNOW = "<b>the night sky</b>", "snow"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLENS_CACHE", str(Path("cache").absolute()))
    for name, value in {"1.png": 130, "2.png": 0, "10.png": 255, "b/1.png": 40}.items():
        picture(Path("trip") / name, value)
    return like_texts(Path("run"), NIGHT, SNOW)


def run(*arguments: object, typed: str | bytes = ""):
    return CliRunner().invoke(app, ["search", *map(str, arguments)], input=typed)


def test_a_line_for_each_picture_the_best_first(trained: Path) -> None:
    done = run(trained, "trip", "--text", NIGHT, "--top", "3")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["1", "1.000", "trip/2.png"]
    assert [(rank, image) for rank, _, image in lines[1:]] == [("2", "trip/b/1.png"), ("3", "trip/1.png")]
    by_picture = run(trained, "trip/*.png", "--image", "trip/10.png").stdout.splitlines()
    assert [line.split()[2] for line in by_picture] == ["trip/10.png", "trip/1.png", "trip/2.png"]
    both = run(trained, "trip", "--image", "trip/10.png", "--text", SNOW)
    assert both.stdout.splitlines()[0].split() == ["1", "1.000", "trip/10.png"]


def test_for_other_programs(trained: Path) -> None:
    done = run(trained, "trip", "--text", NIGHT, "--top", "2", "--json", "--csv", "a.csv")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["rank"], line["image"]) for line in lines] == [(1, "trip/2.png"), (2, "trip/b/1.png")]
    assert lines[0]["similarity"] == pytest.approx(1, abs=1e-5)
    with Path("a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["image"]) for row in rows] == [("1", "trip/2.png"), ("2", "trip/b/1.png")]
    assert float(rows[1]["similarity"]) == pytest.approx(lines[1]["similarity"])


def test_texts_are_asked_for_one_by_one(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def reading(file: FeatureFile, rows: list[int]) -> Features:
        read.append(file)
        return original(file, rows)

    original = FeatureFile.at
    monkeypatch.setattr(FeatureFile, "at", reading)
    typed = f"{NIGHT}\n{'a' * 10**6}\n {SNOW} \n\nnot read\n"
    done = run(trained, "trip", "--text", "-", "--top", "1", "--json", typed=typed)
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["text"], line["rank"], line["image"]) for line in found] == [
        (NIGHT, 1, "trip/2.png"),
        (SNOW, 1, "trip/10.png"),
    ]
    assert done.stderr.splitlines() == ["--text: it has 1,000,000 characters; give 100,000 at most"]
    assert len(read) == 1  # one reading of the features serves all texts
    torn = run(trained, "trip", "gone", "--text", "-", "--top", "1", "--json", typed=b"caf\xe9\nsnow\n")
    assert [set(json.loads(line)) & {"error", "rank"} for line in torn.stdout.splitlines()] == [
        {"error"},
        {"rank"},
        {"rank"},
    ]
    beside = run(trained, "trip", "--text", "-", "--image", "trip/10.png", "--top", "1", typed=SNOW)
    assert beside.stdout.split() == ["1", "1.000", "trip/10.png"]


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import fails
from fedlens.cli.main import app
app(["search", *sys.argv[1:]])
"""


def without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_text_among_known_pictures_needs_no_pytorch(trained: Path) -> None:
    """Its import would take longer than everything else."""
    first = run(trained, "trip", "--text", NIGHT, "--csv", "first.csv")
    assert first.exit_code == 0, first.output
    again = without_torch(trained, "trip", "--text", NIGHT, "--csv", "again.csv", "--html", "a.html")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert Path("a.html").read_text(encoding="utf-8").count("<figure>") == 4
    found = [list(csv.DictReader(Path(f"{name}.csv").read_text("utf-8").splitlines())) for name in ("first", "again")]
    assert [row["image"] for row in found[0]] == [row["image"] for row in found[1]]
    picture(Path("trip/11.png"), 20)
    assert "import of torch" in without_torch(trained, "trip", "--text", NIGHT).stderr  # it has to be encoded


def test_the_page_shows_pictures_and_no_markup_of_others(trained: Path) -> None:
    picture(Path("trip/<img src=x>.png"), 10)
    done = run(trained, "trip", "--text", NIGHT, "--image", "trip/2.png", "--html", "a.html")
    assert done.exit_code == 0, done.output
    page = Path("a.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 6  # five, and the one that was given
    assert page.count("data:image/") == 6
    assert "&lt;b&gt;the night sky&lt;/b&gt;" in page
    assert "<b>the night" not in page
    assert "<img src=x>" not in page
    assert page.index("2.png</span>") < page.index("10.png</span>")
    assert "run" in page


def test_features_are_in_the_cache_and_listed_there(trained: Path) -> None:
    assert run(trained, "trip", "--text", SNOW).exit_code == 0
    (entry,) = contents(Path("cache"))
    assert entry.kind == "search"
    assert b"trip" not in entry.path.read_bytes()  # no name of a file
    entry.remove()
    assert run(trained, "trip", "--text", SNOW).exit_code == 0


def test_what_cannot_be_read_is_named_and_counted(trained: Path) -> None:
    Path("trip/torn.png").write_text("no picture", encoding="utf-8")
    for options in ((), ("--json",)):
        done = run(trained, "trip", "none", "--text", NIGHT, "--html", "a.html", *options)
        assert done.exit_code == 1
        first, second, *_, last = done.stderr.splitlines()
        assert first == "none: No such file or directory" or second == "none: No such file or directory"
        assert "trip/torn.png: not an image" in done.stderr
        assert last == "2 of 6 images could not be read"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["image"]: line["error"] for line in lines[:2]}["none"] == "No such file or directory"
    assert lines[2]["image"] == "trip/2.png"
    assert "torn.png" in Path("a.html").read_text(encoding="utf-8")


def test_no_picture_at_all(trained: Path) -> None:
    Path("empty").mkdir()
    done = run(trained, "empty", "--text", SNOW)
    assert done.exit_code == 1
    assert done.stderr.splitlines() == ["empty: no image files in this folder or below it"]
    assert not done.stdout


def test_a_picture_that_is_gone_since_it_was_encoded() -> None:
    def view(path: Path, _side: int) -> object:
        raise DataError(f"{path}: No such file or directory")

    assert _tiles([Match(Path("a.png"), 1.0)], view) == ([], [(Path("a.png"), "No such file or directory")])


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ((), 2, "say what to look for: a text, a picture with --image, or - to be asked"),
        (("--text", ""), 1, "--text: it is empty"),
        (("--text", "a" * 10**7), 1, "--text: it has 10,000,000 characters; give 100,000 at most"),
        (("--image", "gone.png"), 1, "gone.png: No such file or directory"),
        (("--text", "-", "--image", "gone.png"), 1, "gone.png: No such file or directory"),
        (("--text", "-", "--csv", "a.csv"), 2, "each text would replace the file: use --json"),
        (("--text", SNOW, "--csv", "none/a.csv"), 2, "--csv none/a.csv: cannot be written"),
        (("--text", SNOW, "--html", "trip"), 2, "--html trip: cannot be written"),
        (("--text", SNOW, "--client", "nobody"), 2, "'run' is no run"),
    ],
)
def test_refusals(trained: Path, options: tuple[str, ...], status: int, said: str) -> None:
    done = run(trained, "trip", *options)
    assert done.exit_code == status, done.output
    assert said in " ".join(done.stderr.split())
    assert not done.stdout
    assert not Path("cache").exists()  # said before any picture is encoded


def test_other_models(trained: Path) -> None:
    plain = run(by_brightness(Path("plain")), "trip", "--text", SNOW)
    assert (plain.exit_code, len(plain.stderr.splitlines())) == (1, 1)
    assert plain.stderr.startswith("search: this model knows its own classes alone; train one")
    (trained / "model" / "model.json").unlink()
    assert run("./gone", "trip", "--text", SNOW).stderr.startswith("./gone: there is no such run folder")
    for model in (trained, "gone/run"):
        done = run(model, "trip", "--text", SNOW)
        assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)
