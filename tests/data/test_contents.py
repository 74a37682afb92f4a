"""What images are by their contents: the same after a copy or a move, and the same in two places."""

from __future__ import annotations

import os
import shutil

import numpy as np
from tests.photos import photos

from fedlens.data.cache import Decoding
from fedlens.data.contents import copy_notes, digest_of, fingerprint
from fedlens.data.division import DivisionPlan
from fedlens.data.federate import federate
from fedlens.data.partition.iid import Iid
from fedlens.data.sources.imagefolder import ImageFolder
from fedlens.data.types import ClientRows

PLAN = DivisionPlan(Iid(), clients=2, validation=0.1, client_test=0.1, test=0.2, seed=0)


def key(folder, cache, size=8):
    return federate(ImageFolder(folder).load(), PLAN, Decoding(size, cache_dir=cache)).cache_key


def test_the_key_follows_names_and_contents_not_times_places_or_the_image_size(tmp_path):
    first, cache = photos(tmp_path / "first"), tmp_path / "cache"
    before = key(first, cache)
    moved = shutil.copytree(first, tmp_path / "elsewhere" / "moved")
    file = moved / "cup" / "0.png"
    os.utime(file, (1, 1))
    assert key(moved, cache) == before == key(moved, cache, size=9)
    shutil.copy(moved / "fork" / "1.png", file)  # other pixels of the same name
    assert key(moved, cache) != before
    file.rename(file.with_name("00.png"))
    assert key(moved, cache) != before


def test_what_a_fingerprint_is_made_of(tmp_path):
    files = [tmp_path / "a" / "1.png", tmp_path / "b" / "2.png"]
    here = fingerprint("8", files, ["x", "y"])
    there = [tmp_path / "new" / "a" / "1.png", tmp_path / "new" / "b" / "2.png"]
    assert fingerprint("8", there, ["x", "y"]) == here
    assert fingerprint("8", [*there, None], ["x", "y", ""]) == fingerprint("8", [*files, None], ["x", "y", ""]) != here
    assert len({here, fingerprint("9", files, ["x", "y"]), fingerprint("8", files, ["y", "x"])}) == 3
    assert digest_of(tmp_path / "nowhere") == "-" * 16


def test_copies_are_noted(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(6)]
    contents, labels = list("aabbcd"), np.array([0, 0, 0, 1, 1, 1])
    clients = (
        ClientRows("x", np.array([0, 2]), np.array([4]), np.array([], np.int64)),
        ClientRows("y", np.array([3]), np.array([], np.int64), np.array([5])),
    )

    notes = copy_notes(files, contents, labels, clients, np.array([1]))

    assert [note.split(";")[0] for note in notes] == [
        "same content: 1 of the test images are training images, too: accuracy comes out too high",
        "same content: 1 images lie in another class, too",
        "same content: 1 training images are another client's, too",
    ]
    assert notes[0].endswith(f"such as {files[1]} and {files[0]}")
    assert copy_notes(files, list("abcdef"), labels, clients, np.array([1])) == ()


def test_images_that_clients_share_by_the_scheme_are_not_noted_as_copies():
    empty, labels = np.array([], np.int64), np.array([0, 1, 1])
    clients = [ClientRows(name, np.array([0, 1]), empty, empty) for name in "xy"]
    (note,) = copy_notes(["a", "b", "c"], list("qqq"), labels, clients, empty)
    assert note.startswith("same content: 2 images lie in another class, too")


def test_rows_without_an_image_are_no_copies():
    empty = np.array([], np.int64)
    clients = (ClientRows("x", np.array([0]), empty, empty), ClientRows("y", np.array([1, 2]), empty, empty))
    assert copy_notes([None] * 4, [""] * 4, np.array([0, 1, 0, 1]), clients, np.array([3])) == ()
