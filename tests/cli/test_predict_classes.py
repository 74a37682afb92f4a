"""`fedlens predict --classes`: classes that were never labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.brightness import by_brightness, like_texts, picture
from typer.testing import CliRunner

from fedlens.cli.main import app
from fedlens.inference.predict import open_predictor

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

NIGHT, SNOW = "a photo of the night sky", "a photo of snow"


@pytest.fixture
def trained() -> Path:
    picture(Path("trip/1.png"), 0)
    picture(Path("trip/2.png"), 255)
    return like_texts(Path("run"), NIGHT, SNOW)


def run(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def best(*arguments: object) -> list[str]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return [json.loads(line)["top"][0]["class"] for line in done.stdout.splitlines()]


def test_names_are_classes(trained: Path) -> None:
    assert best(trained, "trip", "--classes", "snow,the night sky,lamp") == ["the night sky", "snow"]
    assert best(trained, "trip", "--classes", "lamp,the night sky,snow") == ["the night sky", "snow"]
    Path("names.txt").write_text("snow\nthe night sky\n", encoding="utf-8")
    assert best(trained, "trip", "--classes", "@names.txt") == ["the night sky", "snow"]


def test_a_text_alone_and_a_text_beside(trained: Path) -> None:
    assert best(trained, "--text", NIGHT, "--classes", "snow,the night sky") == ["the night sky"]
    (line,) = run(trained, "trip/2.png", "--text", SNOW, "--classes", "lamp,snow", "--json").stdout.splitlines()
    (alone,) = run(trained, "trip/2.png", "--text", NIGHT, "--classes", "lamp,snow", "--json").stdout.splitlines()
    both, other = (json.loads(one)["top"][0] for one in (line, alone))
    assert both["class"] == "snow"
    assert both["probability"] != other["probability"]


def test_where_answers_go(trained: Path) -> None:
    Path("names.json").write_text('{"snow": "雪"}', encoding="utf-8")
    files = ("--csv", "a.csv", "--html", "a.html", "--top", "1", "--names", "names.json")
    done = run(trained, "trip", "--classes", "snow,the night sky", *files)
    assert done.exit_code == 0, done.output
    rows = [line.split(",")[:3] for line in Path("a.csv").read_text(encoding="utf-8").splitlines()]
    assert rows == [
        ["image", "class", "display"],
        ["trip/1.png", "the night sky", "the night sky"],
        ["trip/2.png", "snow", "雪"],
    ]
    assert "<b>雪</b>" in Path("a.html").read_text(encoding="utf-8")


def test_other_classes_are_another_predictor(trained: Path) -> None:
    own = open_predictor(str(trained))
    before = own.predict(Path("trip/1.png"))
    other, third = own.recognizing(["snow", "the night sky", "lamp"]), own.recognizing(["lamp"])
    assert [guess.label for guess in third.predict(Path("trip/1.png")).guesses] == ["lamp"]
    assert other.predict(Path("trip/1.png"), top=1).guesses[0].label == "the night sky"
    assert own.predict(Path("trip/1.png")) == before
    assert {guess.label for guess in before.guesses} == {"first", "second"}


def test_the_classes_may_change_again(trained: Path) -> None:
    night = open_predictor(str(trained)).recognizing(["lamp", "snow"]).recognizing(["snow", "the night sky"])
    assert night.predict(Path("trip/1.png"), top=1).guesses[0].label == "the night sky"


def test_a_name_that_is_not_read_to_its_end_gives_a_note(trained: Path) -> None:
    long = "the night sky " + "with one star and another " * 10
    for asked in (("trip/1.png",), ("--text", NIGHT)):
        done = run(trained, *asked, "--classes", f"snow,{long}")
        assert done.exit_code == 0
        (line,) = done.stderr.splitlines()
        assert line.startswith("note: class 'the night sky with")
        assert "model.max_tokens" in line


@pytest.mark.parametrize("classes", ["a,,b", "a,a", "", "a\tb", "@gone.txt"])
def test_a_list_that_cannot_be_used_is_one_line(trained: Path, classes: str) -> None:
    done = run(trained, "trip", "--classes", classes, "--csv", "a.csv")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("--classes: ")
    assert not done.stdout
    assert not Path("a.csv").exists()


def test_other_models_have_their_classes_only(trained: Path) -> None:
    for model in (by_brightness(Path("plain")), "efficientnet_lite0"):
        done = run(model, "trip", "--classes", "snow")
        assert done.exit_code == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("--classes: this model knows its own classes alone")
        assert "model.name=dual_encoder" in line
