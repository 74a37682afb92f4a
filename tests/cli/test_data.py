from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.problems import refuses
from typer.testing import CliRunner

from fedlens.build.builders import build_data
from fedlens.build.load import load
from fedlens.cli.data import app
from fedlens.errors import DataError, FedLensError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")


@pytest.fixture
def photos(tmp_path):
    for number in range(100):
        file = tmp_path / "PHOTOS" / ("cat" if number % 2 else "dog") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full((4, 4), number, np.uint8))
    return tmp_path / "PHOTOS"


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_documented_commands(photos, tmp_path):
    text = run(
        "partition", "--source", "imagefolder", "--path", photos, "--clients", 5, "--scheme", "dirichlet",
        "--alpha", 0.3, "min_size=4", "--out", "data",
    )  # fmt: skip
    assert "5 clients with 80 images, 20 for the test" in text
    assert (tmp_path / "data/client5").is_dir()
    text = run("show", "data")
    assert "100" not in text.splitlines()[0]
    assert "80 images of 2 classes at 5 clients" in text
    assert (tmp_path / "partition.png").stat().st_size > 1000
    assert "<th>client5<td>" in (tmp_path / "partition.html").read_text(encoding="utf-8")
    assert not [*(tmp_path / "data").glob("partition.[ph]*")], "people's folders of images are left as they are"


def test_settings_of_source_and_scheme(photos):
    text = run("partition", f"path={photos}", "--source", "imagefolder", "--scheme", "quantity", "skew=square",
               "--clients", 3, "--test", 0, "--out", "data")  # fmt: skip
    assert "3 clients with 100 images\n" in text


def test_source_is_found_by_what_the_path_holds(photos):
    assert "10 clients" in run("partition", "--path", photos, "--scheme", "iid", "--out", "data")


@pytest.mark.parametrize(
    ("arguments", "code", "key"),
    [
        (["--scheme", "dirichlet", "--alpha", "-1"], "out_of_range", "data.partition.alpha"),
        (["--scheme", "iid", "--classes-per-client", "2"], "unknown_key", "data.partition.classes_per_client"),
        (["--source", "imagefoldr"], "unknown_name", "data.source"),
    ],
)
def test_mistakes_name_the_key(arguments, code, key, photos):
    with refuses((code, key)):
        run("partition", "--path", photos, "--out", "data", *arguments)


def test_data_errors_pass_through(photos, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        run("partition", "--path", tmp_path / "nowhere", "--out", "data")
    with pytest.raises(DataError, match="500 clients"):
        run("partition", "--path", photos, "--clients", 500, "--scheme", "iid", "--out", "data")


def test_sample_as_folders(tmp_path):
    text = run("sample", "--clients", 2, "--images", 30, "--out", "data")
    assert "2 clients with 60 images, 1,000 for the test" in text
    assert len(list((tmp_path / "data/client2").rglob("*.png"))) == 30
    assert "60 images of 10 classes at 2 clients" in run("show", "data", "--out", "pictures")
    assert (tmp_path / "pictures/partition.png").exists()


def test_show_reads_the_data_as_a_run_with_the_same_keys_does(photos):
    rows = [f"{file.relative_to(photos.parent)},{file.parent.name}" for file in sorted(photos.rglob("*.png"))]
    (photos.parent / "all.csv").write_text("\n".join(["filename,class", *rows]))

    text = run("show", "all.csv", "data.columns.path=filename", "data.columns.label=class", "--out", "pictures")

    assert "all.csv read as a table of 100 images: 2 classes (cat, dog), no splits" in text
    assert "100 images of 2 classes\n" in text
    assert "100 images of 2 classes\n" in run("show", "data.path=PHOTOS", "data.source=imagefolder", "--fast")
    with refuses(("unknown_key", "model.name")):
        run("show", "PHOTOS", "model.name=lenet")


def test_show_says_which_images_lie_in_two_splits(photos):
    photos.rename("train")
    for name in ("cat/1.png", "dog/2.png"):
        copy = Path("both/test", name)
        copy.parent.mkdir(parents=True)
        shutil.copy(Path("train", name), copy)
    Path("train").rename("both/train")

    text = run("show", "both")

    assert "note: same content: 2 of the test images are training images, too: accuracy comes out too high" in text


def test_texts_stay_with_their_rows(photos):
    lines = [f"{file},{file.parent.name},{'n' if number % 3 else 's'},a note {number}" for number, file in enumerate(photos.glob("*/*"))]  # fmt: skip  # noqa: E501
    Path("all.csv").write_text("\n".join(["path,label,client,text", *lines, ",cat,t,no picture", ",dog,t,none"]))

    text = run("partition", "--path", "all.csv", "--test", 0, "--out", "parts")

    assert "parts: 3 clients with 102 rows\n" in text
    assert text.endswith(
        "Look:  fedlens data show parts/manifest.csv\nTrain: fedlens run data.path=parts/manifest.csv\n"
    )
    shown = run("show", "parts/manifest.csv")
    assert "a table of 102 rows (100 with an image, 102 with a text, 100 with both): 3 clients (n, s, t)" in shown
    assert ["t", "text", "only", "2", "1", "1"] in [line.split() for line in shown.splitlines()]
    assert "102 rows" in Path("partition.html").read_text(encoding="utf-8")
    assert "no picture" not in text + shown


def test_a_run_takes_modalities_away(photos):
    Path("all.csv").write_text("label,client,text\n" + "".join(f"{n % 2},{'abc'[n % 3]},note {n}\n" for n in range(60)))

    def data(*overrides):
        return build_data(
            load(None, ["data.path=all.csv", "model.name=fusion", *overrides]), lambda _label: lambda _done, _all: None
        )

    assert data().has_text.all()
    taken = data("data.modalities.image_only=0.34")
    noted = next(note for note in taken.report.notes if "data.modalities" in note)
    assert noted.startswith("data.modalities: 1 client without texts (")
    assert len(taken.clients) == 2  # who has no images and loses its texts has nothing
    with refuses(("incompatible", "data.modalities.text_only")):
        data("data.modalities.text_only=0.1")
    with refuses(("invalid_value", "data.modalities")):
        load(None, ["data.modalities={image_only: 0.6, text_only: 0.5}"])
    with refuses(("out_of_range", "data.modalities.image_only")):
        load(None, ["data.modalities.image_only=1.5"])
    with pytest.raises(DataError, match=r"^data\.modalities: the data has no texts"):
        data(f"data.path={photos}", "data.partition.clients=4", "data.modalities.text_only=0.5")


def test_show_without_a_path_is_the_sample():
    assert "5,000 images of 10 classes at 10 clients" in run("show", "--out", "pictures")


def test_lists():
    schemes, sources = run("schemes"), run("sources")
    assert all(name in schemes for name in ("dirichlet", "alpha=0.5", "natural", "shards_per_client=2"))
    assert all(name in sources for name in ("imagefolder", "sample", "clients", "manifest"))


def test_the_cache_is_listed_and_removed(photos, tmp_path):
    assert "0 entries" in run("cache", tmp_path / "nothing")
    build_data(load(None, [f"data.path={photos}", "data.partition.clients=4"]), lambda _label: lambda _done, _all: None)
    (pixels,) = (tmp_path / "cache" / "images").glob("*.u8")
    text = run("cache")
    images = next(line for line in text.splitlines() if line.startswith("images"))
    assert images.endswith(str(photos))
    assert text.splitlines()[-1].startswith(f"{tmp_path / 'cache'}: 1 entry, ")
    os.utime(pixels, (0, 0))
    assert "removed 1 entry" in run("cache", "--older-than", 30)
    assert not pixels.exists()
    assert "removed 0 entries" in run("cache", "--clear", "--older-than", 30)
    assert "removed 0 entries" in run("cache", "--clear")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_show_names_the_damaged_file_of_a_run(tmp_path):
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "partition.json").write_text("5")
    with pytest.raises(FedLensError, match=r"partition\.json: the whole: .*; mend the file"):
        run("show", tmp_path)
