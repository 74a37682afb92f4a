"""`fedlens predict`, on the photographs that come with scikit-image."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from tests.brightness import by_brightness, picture
from tests.problems import refuses
from typer.testing import CliRunner

from fedlens.cli.predict import predict
from fedlens.errors import DataError, ModelError
from fedlens.inference.predict import central_square, open_predictor

PHOTOGRAPHS = Path(find_spec("skimage").origin).parent / "data"

app = typer.Typer()
app.command()(predict)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False).output


@pytest.fixture
def trained(tmp_path):
    return by_brightness(tmp_path / "run")


def test_recognises_a_thousand_kinds_of_things_offline():
    output = run("efficientnet_lite0", *(PHOTOGRAPHS / name for name in ("chelsea.png", "coffee.png")), "--json")

    cat, coffee = (json.loads(line) for line in output.splitlines())
    assert {guess["class"] for guess in cat["top"][:3]} == {"tiger cat", "Egyptian cat", "tabby"}
    assert len(cat["top"]) == 5
    assert coffee["top"][0]["class"] == "espresso"
    assert coffee["top"][0]["probability"] > 0.9
    assert coffee["image"].endswith("coffee.png")


def test_a_trained_run_with_its_own_class_names(trained, tmp_path):
    white, black = picture(tmp_path / "white.png", 255), picture(tmp_path / "black.png", 0)

    lines = [json.loads(line) for line in run(trained, white, black, "--json").splitlines()]

    assert [guess["class"] for guess in lines[0]["top"]] == ["bright", "dark", "class 2"]
    assert [guess["class"] for guess in lines[1]["top"]] == ["dark", "class 2", "bright"]
    # logits 10, 20, 5: 1 / (1 + e^-10 + e^-15)
    assert lines[0]["top"][0]["probability"] == pytest.approx(0.999954, abs=2e-6)


def test_the_table(trained, tmp_path):
    output = run(trained / "model", picture(tmp_path / "white.png", 255), "--top", "1")

    assert "white.png" in output
    assert "bright" in output
    assert "100.0%" in output
    assert "dark" not in output


def test_what_cannot_be_opened(trained, tmp_path):
    with pytest.raises(ModelError, match="no saved model there"):
        run(tmp_path, PHOTOGRAPHS / "coffee.png")
    with pytest.raises(ModelError, match="there is no such run folder"):
        run(tmp_path / "none", PHOTOGRAPHS / "coffee.png")
    with pytest.raises(ModelError, match="lenet has no ImageNet weights; these have: efficientnet_lite0"):
        run("lenet", PHOTOGRAPHS / "coffee.png")
    with refuses(("unknown_name", "eficientnet_lite0")):
        run("eficientnet_lite0", PHOTOGRAPHS / "coffee.png")


def test_a_folder_of_runs_lists_them_newest_first(tmp_path):
    for number in range(7):
        run_folder = tmp_path / "logs" / f"run{number}"
        (run_folder / "checkpoints").mkdir(parents=True)
        (run_folder / "config.yaml").touch()
        os.utime(run_folder / "config.yaml", (number, number))
    with pytest.raises(ModelError) as caught:
        run(tmp_path / "logs", PHOTOGRAPHS / "coffee.png")
    listed = ", ".join(str(tmp_path / "logs" / f"run{number}") for number in (6, 5, 4, 3, 2))
    assert str(caught.value) == (f"{tmp_path / 'logs'} holds runs; name one of them, newest first: {listed} and 2 more")
    with pytest.raises(ModelError, match="no saved model there"):  # a run that has not ended
        run(tmp_path / "logs" / "run1", PHOTOGRAPHS / "coffee.png")


@pytest.mark.parametrize("as_json", [False, True])
def test_one_bad_picture_does_not_end_it(trained, tmp_path, as_json):
    white = picture(tmp_path / "white.png", 255)
    (tmp_path / "my photos").mkdir()
    (tmp_path / "a\x1b[2Jb.png").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.png")
    bad = ["gone.png", "my photos", "a\x1b[2Jb.png", "pipe.png"]
    arguments = [trained, *(tmp_path / name for name in bad), white, *(["--json"] if as_json else [])]

    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"{tmp_path}/my photos: no image files in this folder or below it",
        f"{tmp_path}/gone.png: No such file or directory",
        f"{tmp_path}/a\ufffd[2Jb.png: not an image that OpenCV or Pillow can decode, or a damaged one",
        f"{tmp_path}/pipe.png: a named pipe, not a regular file",
        "4 of 5 images could not be read",
    ]
    if as_json:
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        named = [str(path) for path in arguments[1:6]]
        assert [line["image"] for line in lines] == [named[1], named[0], *named[2:]]
        assert lines[1]["error"] == "No such file or directory"
        assert lines[4]["top"][0]["class"] == "bright"
    assert "bright" in result.stdout


def test_the_limit_on_pixels(trained, tmp_path):
    white = picture(tmp_path / "white.png", 255)  # 50 × 40

    assert CliRunner().invoke(app, [str(trained), str(white), "--max-pixels", "2000"]).exit_code == 0
    refused = CliRunner().invoke(app, [str(trained), str(white), "--max-pixels", "1999"])
    assert refused.exit_code == 1
    assert refused.stderr == (
        f"{white}: 40 × 50 pixels are more than the limit of 1,999; make it smaller, or raise data.max_pixels "
        "(predict: --max-pixels)\n"
    )


def test_from_python_one_picture_at_a_time(trained, tmp_path):
    predictor = open_predictor(str(trained))
    found = predictor.predict(picture(tmp_path / "white.png", 255), top=1)
    assert [guess.label for guess in found.guesses] == ["bright"]
    (tmp_path / "torn.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"torn\.png"):
        predictor.predict(tmp_path / "torn.png")


def test_the_central_square_is_pillows():
    """Pillow's bicubic is the reference that ImageNet accuracies are measured with; one level apart is rounding."""
    image = np.asarray(Image.open(PHOTOGRAPHS / "chelsea.png").convert("RGB"))  # 300 × 451
    reference = Image.fromarray(image).resize((385, 256), Image.Resampling.BICUBIC).crop((80, 16, 304, 240))

    square = central_square(image, 224)

    assert square.shape == (224, 224, 3)
    assert np.abs(square.astype(int) - np.asarray(reference).astype(int)).max() <= 1
