"""`fedlens evaluate`: a model on labelled pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.brightness import by_brightness, picture
from typer.testing import CliRunner

import fedlens
from fedlens.cli.main import app

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

BLACK, GREY, WHITE = 0, 153, 255
"""Logits of dark and bright: 10 and 20 · brightness; so grey, 0.6, is bright with 12, 0.88 against 10 and 5."""


def run(*arguments: object):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def figures(*arguments: object) -> dict:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def trained() -> Path:
    return by_brightness(Path("run"))


@pytest.fixture
def labelled() -> Path:
    """Three dark pictures and four bright ones; the model is wrong on a grey and a white dark one, and on a black
    bright one."""
    for name, values in {"dark": (BLACK, GREY, WHITE), "bright": (WHITE, WHITE, BLACK, WHITE)}.items():
        for number, value in enumerate(values):
            picture(Path("labelled") / name / f"{number}.png", value)
    return Path("labelled")


def test_figures_worked_out_by_hand(trained: Path, labelled: Path) -> None:
    found = figures(trained, labelled)

    assert (found["accuracy"], found["examples"]) == (4 / 7, 7)
    # Wilson, z = 1.96: (4/7 + z²/14 ± z √(4/7 · 3/7 / 7 + z² / 196)) / (1 + z² / 7)
    assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx((0.2505, 0.8418), abs=1e-4)
    assert found["balanced_accuracy"] == pytest.approx((1 / 3 + 3 / 4) / 2)
    assert found["confusion"] == [[1, 2], [1, 3]]
    assert found["classes"] == [
        {"class": "dark", "images": 3, "recall": pytest.approx(1 / 3)},
        {"class": "bright", "images": 4, "recall": 0.75},
    ]
    wrong = [(one["image"], one["true"], one["predicted"]) for one in found["mistakes"]]
    assert wrong == [
        ("labelled/dark/2.png", "dark", "bright"),
        ("labelled/bright/2.png", "bright", "dark"),
        ("labelled/dark/1.png", "dark", "bright"),
    ]
    assert found["mistakes"][0]["probability"] == pytest.approx(0.999954, abs=2e-6)
    assert len(figures(trained, labelled, "--top", "1")["mistakes"]) == 1


def test_the_screen(trained: Path, labelled: Path) -> None:
    lines = run(trained, labelled).stdout.splitlines()
    assert lines[0] == "accuracy           57.1 % (95 %: 25.0–84.2), 7 images"
    assert lines[1] == "balanced accuracy  54.2 %"
    assert lines[4].split() == ["dark", "3", "33.3", "%", "bright", "(2)"]
    assert " 100.0 %  dark, taken for bright: labelled/dark/2.png" in lines


def test_the_page(labelled: Path) -> None:
    hostile = "<script>alert(1)</script>"
    trained = by_brightness(Path("run"), ("dark", hostile))
    (labelled / "bright").rename(labelled / "-script-alert(1)-script-")  # as `fedlens data` names a class' folder
    (labelled / "dark" / "2.png").rename(labelled / "dark" / "<b>.png")

    done = run(trained, labelled, "--html", "page.html")

    assert (done.exit_code, done.stderr) == (0, "page  page.html\n")
    page = Path("page.html").read_text(encoding="utf-8")
    assert hostile not in page
    assert "dark/&lt;b&gt;.png" in page
    assert page.count("<figure><div") == 3  # the mistakes
    assert 'id="confusion-matrix"' in page
    assert "accuracy<br>95\u00a0%: 25.0–84.2<br>7 images" in page


def test_display_names(trained: Path, labelled: Path) -> None:
    Path("names.json").write_text('{"dark": "黑暗图片", "bright": "明"}', encoding="utf-8")
    named = ("--names", "names.json")

    lines = run(trained, labelled, *named, "--html", "page.html").stdout.splitlines()
    found, plain = figures(trained, labelled, *named), figures(trained, labelled)

    # a Chinese character is two columns wide
    assert lines[3:6] == [
        "class     pictures  recall  most often taken for",
        "黑暗图片         3  33.3 %                明 (2)",
        "明               4  75.0 %          黑暗图片 (1)",
    ]
    assert " 100.0 %  黑暗图片, taken for 明: labelled/dark/2.png" in lines
    page = Path("page.html").read_text(encoding="utf-8")
    assert "is 黑暗图片<span" in page
    assert "<td>明</td>" in page
    assert [one.pop("display") for one in found["classes"]] == ["黑暗图片", "明"]
    assert found == plain  # all else has the classes' own names
    refused = run(trained, labelled, "--names", "zh")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("--names zh: these names are for the classes of the sample")


def test_what_is_left_out_is_named(trained: Path, labelled: Path) -> None:
    picture(labelled / "brigth" / "1.png", 0)
    picture(labelled / "other" / "deep" / "1.png", 0)
    picture(labelled / "1.png", 0)
    (labelled / "empty").mkdir()
    for file in (labelled / "dark").iterdir():
        file.unlink()

    found = figures(trained, labelled)

    assert found["notes"] == [
        "left out: 1 picture in brigth, which is no class of the model; rename it if it is 'bright'",
        "left out: 1 picture in other, which is no class of the model",
        "left out: 1 picture outside of the folders of classes",
        "no pictures of 1 class of the model: dark",
    ]
    assert found["examples"] == 4
    assert found["classes"][0] == {"class": "dark", "images": 0, "recall": None}
    assert run(trained, labelled).stderr.splitlines() == [f"note: {note}" for note in found["notes"]]


def test_a_class_in_two_unicode_forms_is_one() -> None:
    trained = by_brightness(Path("run"), ("dark", "h\u00e9lle"))
    for name in ("h\u00e9lle", "he\u0301lle"):
        picture(Path("labelled") / name / "1.png", WHITE)
    assert figures(trained, "labelled")["confusion"] == [[0, 0], [0, 2]]


def test_an_image_that_cannot_be_read_is_in_no_figure(trained: Path, labelled: Path) -> None:
    (labelled / "dark" / "1.png").write_text("none")
    done = run(trained, labelled, "--json", "--html", "page.html")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0].startswith("labelled/dark/1.png: not an image")
    assert done.stderr.splitlines()[-1] == "1 of 7 images could not be read and are in no figure"
    found = json.loads(done.stdout)
    assert (found["examples"], found["unreadable"][0]["image"]) == (6, "labelled/dark/1.png")
    assert "labelled/dark/1.png</td>" in Path("page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("none", "none does not exist"),
        ("labelled/dark/0.png", "labelled/dark/0.png is a file; give the folder that has a folder for each class"),
        (
            "labelled/dark",
            "labelled/dark: no folder in it has images and the name of a class: there are no folders in it; the "
            "model's classes are dark, bright. Give the folder that has a folder for each class",
        ),
        (
            ".",
            ".: no folder in it has images and the name of a class: its folders are labelled, run; the model's classes "
            "are dark, bright. Give the folder that has a folder for each class, such as labelled",
        ),
    ],
)
def test_folders_that_are_not_meant(trained: Path, labelled: Path, folder: str, line: str) -> None:
    done = run(trained, folder)
    assert (done.exit_code, done.stderr) == (1, f"{line}\n")


def test_no_picture_can_be_read(trained: Path) -> None:
    picture(Path("labelled/dark/1.png"), 0).write_text("none")
    done = run(trained, "labelled")
    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("none of 1 picture can be read; the first: labelled/dark/1.png: not an image")


def test_the_accuracy_of_a_run_on_its_own_test_images() -> None:
    """Exported to folders, they are the same pixels; "T-shirt/top" is a folder of another name."""
    settings = (
        "data.source=sample data.partition.scheme=iid data.partition.clients=2 model.name=lenet optimizer.lr=0.1 "
        "federated.num_rounds=1 federated.fraction_fit=1.0 federated.local_epochs=3 federated.evaluate_clients_every=0 "
        "runtime.name=in_process tracking.tensorboard=false tracking.report=false"
    )
    done = fedlens.run(None, *settings.split(), show=False)
    exported = CliRunner().invoke(app, ["data", "partition", "--source", "sample", "--out", "data"])
    assert exported.exit_code == 0

    found = figures("latest", "data/test")

    last = json.loads((done.folder / "metrics.jsonl").read_text().splitlines()[-1])["test"]
    assert found["examples"] == last["examples"] == 1000
    assert found["accuracy"] == last["accuracy"] > 0.1
    assert [one["recall"] for one in found["classes"]] == last["recalls"]
    assert found["loss"] == pytest.approx(last["loss"], rel=1e-5)
    client = json.loads((done.folder / "partition.json").read_text())["clients"].popitem()[0]
    own = figures("latest", "data/test", "--client", client)
    assert own["notes"] == ["personalization.name is none: every client uses the shared model"]
    assert own["confusion"] == found["confusion"]
