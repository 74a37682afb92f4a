"""Search: what is most like a text or a picture, and features that are computed once for each file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.brightness import by_brightness, like_texts, picture

from fedlens.errors import DataError, ModelError
from fedlens.inference import feature_files, predict
from fedlens.inference.search import Encoded, Searcher

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")

NIGHT, SNOW = "the night sky over a field", "snow"
CACHE = Path("cache")


@pytest.fixture
def trained() -> Path:
    return like_texts(Path("run"), NIGHT, SNOW)


@pytest.fixture
def trip() -> list[Path]:
    return [picture(Path("trip") / f"{value}.png", value) for value in (120, 0, 255, 60)]


def searcher(run: Path, **how: int) -> Searcher:
    return Searcher(str(run), cache_dir=CACHE, **how)


class Count:
    """How many pictures are encoded."""

    def __init__(self) -> None:
        self.encoded = 0

    @contextmanager
    def __call__(self) -> Iterator[object]:
        yield self._note

    def _note(self, done: int, _total: int) -> None:
        self.encoded = done


def encoded(run: Path, images: list[Path], **how: int) -> tuple[Encoded, int]:
    count = Count()
    return searcher(run, **how).encode(images, count), count.encoded


def names(found: Encoded, query: feature_files.Features, top: int = 9) -> list[str]:
    return [match.image.stem for match in found.most_like(query, top)]


def test_the_picture_with_the_features_of_the_text_is_first(trained: Path, trip: list[Path]) -> None:
    found, _ = encoded(trained, trip)
    for text, first, last in ((NIGHT, "0", "255"), (f" {SNOW}\n", "255", "0")):
        ranked = found.most_like(searcher(trained).query(text, None), 9)
        assert (ranked[0].image.stem, ranked[-1].image.stem) == (first, last)
        assert ranked[0].similarity == pytest.approx(1, abs=1e-5)
        assert [one.similarity for one in ranked] == sorted((one.similarity for one in ranked), reverse=True)


def test_by_a_picture_and_by_both(trained: Path, trip: list[Path]) -> None:
    black, white = trip[1], trip[2]
    search = searcher(trained)
    found, _ = encoded(trained, trip)
    assert names(found, search.query(None, black), top=2) == ["0", "60"]
    both = search.query(SNOW, black)
    expected = search.query(SNOW, None) + search.query(None, black)
    np.testing.assert_allclose(both, expected / np.linalg.norm(expected), rtol=1e-6)
    np.testing.assert_allclose(search.query(NIGHT, None), search.query(None, black), atol=1e-5)
    np.testing.assert_allclose(search.query(SNOW, white), search.query(SNOW, None), atol=1e-5)


def test_equal_pictures_keep_their_order(trained: Path) -> None:
    images = [picture(Path("same") / f"{number}.png", 90) for number in range(20)]
    found, _ = encoded(trained, images)
    assert names(found, searcher(trained).query(SNOW, None), top=20) == [str(number) for number in range(20)]


def test_each_file_is_encoded_once(trained: Path, trip: list[Path]) -> None:
    first, count = encoded(trained, trip)
    assert count == 4
    again, count = encoded(trained, trip)
    assert count == 0
    np.testing.assert_allclose(again.features, first.features)
    more = [*trip, picture(Path("trip/200.png"), 200)]
    third, count = encoded(trained, more[1:])
    assert count == 1
    np.testing.assert_allclose(third.features[:3], first.features[1:])


def test_a_changed_file_is_encoded_again(trained: Path) -> None:
    """BMP has the same size whatever it shows."""
    black, white = (picture(Path(f"{value}.bmp"), value) for value in (0, 255))
    encoded(trained, [black, white])
    before = black.stat()
    picture(black, 255)
    os.utime(black, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert black.stat().st_size == before.st_size
    found, count = encoded(trained, [black, white])
    assert count == 1
    np.testing.assert_allclose(found.features[0], found.features[1])
    assert encoded(trained, [black, white])[1] == 0
    (file,) = CACHE.rglob("*.safetensors")
    assert feature_files.load_file(file)["features"].shape == (2, 16)  # what was before is gone


def test_what_features_depend_on_has_a_file_of_its_own(trained: Path, trip: list[Path]) -> None:
    encoded(trained, trip)
    other = like_texts(Path("other"), SNOW, NIGHT)
    found, count = encoded(other, trip)
    assert count == 4
    assert names(found, searcher(other).query(NIGHT, None), top=1) == ["255"]
    assert encoded(trained, trip, max_pixels=10**6)[1] == 4
    assert encoded(shutil.copytree(trained, "copy"), trip)[1] == 0
    assert len(list(CACHE.rglob("*.safetensors"))) == 3


def test_a_model_that_is_replaced_meanwhile_leaves_no_features_behind(trained: Path, trip: list[Path]) -> None:
    other = like_texts(Path("other"), SNOW, NIGHT)
    for query, said in (
        (("snow", None), "this model has been replaced meanwhile; search again"),
        ((None, trip[0]), ""),
    ):
        run = shutil.copytree(trained, f"copy {bool(said)}")
        search = searcher(run)
        search.query(*query)
        shutil.copytree(other, run, dirs_exist_ok=True)
        if said:  # the model was not yet loaded
            with pytest.raises(ModelError, match=said):
                search.encode(trip, Count())
        else:
            search.encode(trip, Count())
        found = searcher(run).encode(trip, Count())
        np.testing.assert_allclose(found.features, searcher(other).encode(trip, Count()).features, atol=1e-6)


def test_a_model_whose_training_diverged_is_told(trained: Path, trip: list[Path]) -> None:
    weights = trained / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["backbone.text.project.weight"].fill(np.nan)
    save_file(tensors, weights)
    with pytest.raises(ModelError, match="this model gives no finite numbers"):
        searcher(trained).query(SNOW, None)


def test_what_cannot_be_read_is_named_and_tried_again(trained: Path, trip: list[Path]) -> None:
    torn = Path("trip/torn.png")
    torn.write_text("no picture", encoding="utf-8")
    for encoded_now in (6, 2):
        found, count = encoded(trained, [torn, *trip, Path("trip/gone.png")])
        assert [one.image.name for one in found.unreadable] == ["torn.png", "gone.png"]
        assert found.images == tuple(trip)
        assert count == encoded_now
    picture(torn, 255)
    assert encoded(trained, [torn, *trip])[1] == 1


def test_an_interrupt_keeps_what_is_encoded(trained: Path, trip: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "BATCH", 1)

    @contextmanager
    def interrupted() -> Iterator[object]:
        def note(done: int, _total: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        yield note

    with pytest.raises(KeyboardInterrupt):
        searcher(trained).encode(trip, interrupted)
    assert encoded(trained, trip)[1] == 1


def test_features_are_written_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill loses the last ones only."""
    monkeypatch.setattr(feature_files, "_OFTEN", 2)
    stored = feature_files.FeatureFile(Path("some.safetensors"), 3)
    kept = []
    for number in range(5):
        name = feature_files.file_name(picture(Path(f"{number}.png"), 0))
        stored.add(name, np.full(3, number, np.float32))
        kept.append(feature_files.FeatureFile(Path("some.safetensors"), 3).find(name) is not None)
    assert kept == [False, True, False, True, False]


@pytest.mark.parametrize("damage", [b"", b"no tensors", None])
def test_a_damaged_file_counts_as_empty(trained: Path, trip: list[Path], damage: bytes | None) -> None:
    first, _ = encoded(trained, trip)
    (file,) = CACHE.rglob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage is None else damage)
    found, count = encoded(trained, trip)
    assert count == 4
    np.testing.assert_allclose(found.features, first.features)


def test_a_cache_that_cannot_be_written_loses_nothing(trained: Path, trip: list[Path]) -> None:
    CACHE.write_text("a file in place of the folder", encoding="utf-8")
    found, count = encoded(trained, trip)
    assert count == 4
    assert len(found.features) == 4
    assert "cannot be stored" in found.remark


def test_refusals(trained: Path) -> None:
    with pytest.raises(ModelError, match=r"^search: this model knows its own classes alone"):
        searcher(by_brightness(Path("plain")))
    search = searcher(trained)
    with pytest.raises(ModelError, match="--text: it is empty"):
        search.query(" \t", None)
    with pytest.raises(ModelError, match="--text: it has 10,000,000 characters; give 100,000 at most"):
        search.query("a" * 10**7, None)
    with pytest.raises(DataError, match=r"gone\.png: No such file"):
        search.query(SNOW, Path("gone.png"))
