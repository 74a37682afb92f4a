"""Which image files a command line names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedlens.data.found import find_images, relative


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files are found by name; nothing is read."""
    names = "2.jpg 10.jpg b/1.PNG b/deep/x.webp a/1.png a/notes.txt a/.hidden.png [new]/1.png none/readme.md"
    for name in names.split():
        (tmp_path / "trip" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "trip" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*named: str) -> list[str]:
    found = find_images(map(Path, named))
    assert not found.problems
    return [str(image) for image in found.images]


@pytest.mark.usefixtures("photos")
def test_folders_are_read_to_their_end_and_sorted() -> None:
    below = ["trip/[new]/1.png", "trip/a/1.png", "trip/b/1.PNG", "trip/b/deep/x.webp"]
    assert names("trip") == ["trip/2.jpg", "trip/10.jpg", *below]
    assert names("trip/b", "trip/a", "trip/b/1.PNG") == ["trip/b/1.PNG", "trip/b/deep/x.webp", "trip/a/1.png"]


@pytest.mark.usefixtures("photos")
def test_patterns_that_the_shell_left_alone() -> None:
    assert names("trip/*.jpg") == ["trip/2.jpg", "trip/10.jpg"]
    assert names("trip/**/1.*") == ["trip/[new]/1.png", "trip/a/1.png", "trip/b/1.PNG"]
    assert names("trip/a*") == ["trip/a/1.png"]  # a folder, and no text file
    assert names("trip/[new]/1.png") == ["trip/[new]/1.png"]  # a name of its own, not a pattern


@pytest.mark.usefixtures("photos")
def test_each_image_once_and_what_is_named_itself_always() -> None:
    assert names("trip/a/1.png", "trip/a/../a/1.png", f"{os.getcwd()}/trip/a/1.png") == ["trip/a/1.png"]  # noqa: PTH109
    assert names("trip/a/notes.txt") == ["trip/a/notes.txt"]


@pytest.mark.usefixtures("photos")
def test_what_names_no_image() -> None:
    found = find_images(map(Path, ["trip/none", "trip/*.gif", "trip/2.jpg", "x" * 300]))
    assert found.images == (Path("trip/2.jpg"),)
    assert [problem for _, problem in found.problems] == [
        "trip/none: no image files in this folder or below it",
        "trip/*.gif: no image file matches this pattern",
        f"{'x' * 300}: File name too long",
    ]
    assert find_images([Path("trip/a")]).notes == ("trip/a: not taken for images, by their names: 1 file (.txt)",)


def test_names_below_the_folder_that_all_share(tmp_path: Path) -> None:
    images = [tmp_path / "a" / "1.png", tmp_path / "b" / "c" / ".." / "1.png"]
    assert list(relative(images).values()) == [Path("a/1.png"), Path("b/1.png")]
    assert list(relative([tmp_path / "a" / "1.png"]).values()) == [Path("1.png")]
    assert relative([]) == {}
