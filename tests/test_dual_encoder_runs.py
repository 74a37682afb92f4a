"""Runs of dual encoders: what is measured of them, by hand; held-out classes; a part that is tuned."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.photos import photo
from tests.test_multimodal import measures, settings, write_table
from torch import Tensor, nn
from typer.testing import CliRunner

import fedlens
from fedlens.build.experiment import Experiment, build_experiment
from fedlens.build.load import load
from fedlens.build.measures import retrieval_measure, zero_shot_measure
from fedlens.cli.main import app
from fedlens.core.files import read_json
from fedlens.data.images import read
from fedlens.errors import ConfigError, DataError
from fedlens.models.base import beside_texts
from fedlens.models.dual_encoder import DualEncoder
from fedlens.reports.figures.clients import partition
from fedlens.reports.load import load_run
from fedlens.tracking.metrics import read_metrics
from fedlens.tracking.observer import Silent

DUAL = (
    "model.name=dual_encoder",
    "model.max_tokens=24",
    "optimizer.name=adamw",
    "optimizer.lr=0.01",
    "federated.evaluate_every=2",
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> fedlens.Run:
    return fedlens.run(None, *settings(table, tmp_path_factory.mktemp("runs"), *DUAL), show=False)


def built(table: Path, tmp_path: Path, *more: str) -> tuple[Experiment, DualEncoder]:
    """An experiment that has not begun."""
    config = load(None, settings(table, tmp_path, *DUAL, *more))
    experiment = build_experiment(config, tmp_path / "run", Silent().progress, model=None, data=None)
    assert isinstance(experiment.model, DualEncoder)
    return experiment, experiment.model.eval()


def test_it_learns_from_pairs_and_labels(run: fedlens.Run) -> None:
    last = measures(run)[-1]
    assert min(last["modality/both"], last["modality/image_only"], last["modality/text_only"]) > 0.6
    assert {f"retrieval/{way}_at_{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)} <= last.keys()
    assert {"modality/clients_both", "modality/clients_image_only", "modality/clients_text_only"} <= last.keys()
    assert not any(name.startswith("zero_shot") for name in last)


def test_a_run_resumes_to_the_same_bits(run: fedlens.Run, table: Path, tmp_path: Path) -> None:
    short = fedlens.run(None, *settings(table, tmp_path, *DUAL, "federated.num_rounds=2"), show=False)
    again = fedlens.resume(short.folder, "federated.num_rounds=4", show=False)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_workers_give_the_same_model(table: Path, tmp_path: Path) -> None:
    short = (*DUAL, "optimizer.name=sgd", "federated.num_rounds=1")  # Adam makes more of rounding errors
    one, two = (
        fedlens.run(None, *settings(table, tmp_path, *short, f"runtime.workers={n}"), show=False) for n in (1, 2)
    )
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, two.model.state_dict()[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes, 20 rows each, of which every fifth has no image."""
    folder = tmp_path_factory.mktemp("four")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["path", "label", "client", "text"])
        for number in range(80):
            kind = number % 4
            photo(folder / f"{number}.png", kind % 3, number, 20)
            path = "" if number % 5 == 0 else f"{number}.png"
            label = ("cup", "fork", "plate", "spoon")[kind]
            out.writerow([path, label, f"client{number % 2}", f"text {kind} {number}"])
    return folder / "rows.csv"


class Pointing(nn.Module):
    """In place of a text tower: to each of the texts `known` (N, L) belongs a direction (N, D)."""

    def __init__(self, known: Tensor, directions: Tensor) -> None:
        super().__init__()
        self.known, self.directions = known, directions

    def forward(self, texts: Tensor) -> Tensor:
        return self.directions[(texts[:, None] == self.known[None]).all(2).float().argmax(1)]


def test_held_out_classes_are_recognised_by_their_names_by_hand(four: Path, tmp_path: Path) -> None:
    experiment, model = built(four, tmp_path, "data.held_out=[fork,spoon]", "data.test=0.5")
    data, measure = experiment.train_data, zero_shot_measure(experiment)
    assert data.class_names == ("cup", "plate")
    assert data.held_out is not None
    assert data.has_image is not None
    assert measure is not None
    rows = torch.from_numpy(data.held_out.rows)
    seen = rows[data.has_image[rows]]
    assert 0 < len(seen) < len(rows)
    images = model.backbone(model.prepare(data.images[seen])).detach()
    mean = torch.nn.functional.normalize(images.mean(0), dim=0)
    drawn = torch.randn(2, len(mean), generator=torch.Generator().manual_seed(0))
    fork, plate = drawn - (drawn @ mean)[:, None] * mean  # tell the images apart, which are all near their mean
    directions = torch.stack([-mean, plate, fork, -fork])
    model.backbone.text = Pointing(model.read_classes(["cup", "plate", "fork", "spoon"]), directions)
    likeness, truth = images @ torch.nn.functional.normalize(directions, dim=1).T, data.labels[seen]
    among_all = float((likeness.argmax(1) == truth).float().mean())
    among_two = float((likeness[:, 2:].argmax(1) + 2 == truth).float().mean())
    assert 0 < among_all < among_two
    found = measure(experiment.shared)
    assert found == {"zero_shot/held_out": pytest.approx(among_two), "zero_shot/all": pytest.approx(among_all)}
    assert len(model.class_inputs) == 2


def test_zero_shot_is_not_measured_without_a_shared_model_or_for_one_name(four: Path, tmp_path: Path) -> None:
    own, _ = built(four, tmp_path, "data.held_out=[fork,spoon]", "personalization.name=lgfedavg")
    assert own.partly_private
    assert zero_shot_measure(own) is None
    one, _ = built(four, tmp_path, "data.held_out=[fork]", "data.test=0.5")
    measure = zero_shot_measure(one)
    assert measure is not None
    assert measure(one.shared).keys() == {"zero_shot/all"}


def test_recall_of_complete_test_rows_by_hand(table: Path, tmp_path: Path) -> None:
    experiment, model = built(table, tmp_path)
    data, measure = experiment.train_data, retrieval_measure(experiment)
    assert data.has_image is not None
    assert data.has_text is not None
    assert data.text_inputs is not None
    assert measure is not None
    rows = [row for row in data.test.tolist() if data.has_image[row] and data.has_text[row]]
    inputs = beside_texts(
        model.prepare(data.images[rows]), data.text_inputs[rows], torch.ones(len(rows), 2, dtype=torch.bool)
    )
    image, text, _ = model.backbone.apart(inputs)  # type: ignore[arg-type]
    labels, found = data.labels[rows], measure(experiment.shared)  # all rows of a class have one text
    shares = {"text_to_image": text @ image.T, "image_to_text": image @ text.T}
    assert not torch.equal(*shares.values())
    for way, likeness in shares.items():
        first = likeness.argmax(1)
        expected = (labels[first] == labels).float().mean()
        assert found[f"retrieval/{way}_at_1"] == pytest.approx(float(expected)), way


def test_a_report_shows_images_with_their_nearest_texts(four: Path, tmp_path: Path) -> None:
    more = ("data.test=0.5", "federated.num_rounds=1", "federated.local_epochs=1", "tracking.pictures=true")
    found = fedlens.run(None, *settings(four, tmp_path, *DUAL, *more), show=False)
    kept = read_json(found.folder / "nearest-texts.json")
    with four.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["path"]]
    label_of = {row["text"]: row["label"] for row in rows}
    assert 12 == len(kept["pictures"]) < kept["tested"] == kept["texts"] < len(rows)
    assert {shown["class"] for shown in kept["pictures"]} == {"cup", "fork", "plate", "spoon"}
    for shown in kept["pictures"]:
        assert [near["place"] for near in shown["nearest"][:3]] == [1, 2, 3]
        assert all(near["class"] == label_of[near["text"]] for near in shown["nearest"])
        (own,) = (near for near in shown["nearest"] if near["own"])
        assert own["class"] == shown["class"]
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    assert page.count(f">{kept['pictures'][0]['nearest'][0]['text']}<") > 0
    assert 'class="texts"' in page
    fedlens.resume(found.folder, "federated.num_rounds=2", "tracking.pictures=false", show=False)
    assert not [*found.folder.glob("nearest-texts.json"), *found.folder.glob("pictures.json")]
    assert 'class="texts"' not in (found.folder / "report.html").read_text(encoding="utf-8")


def test_no_texts_where_pictures_are_off_or_there_is_no_shared_model(
    run: fedlens.Run, four: Path, tmp_path: Path
) -> None:
    assert 'class="texts"' not in (run.folder / "report.html").read_text(encoding="utf-8")
    own = ("personalization.name=lgfedavg", "tracking.pictures=true", "federated.num_rounds=1")
    found = fedlens.run(None, *settings(four, tmp_path, *DUAL, "data.test=0.5", *own), show=False)
    assert not (run.folder / "nearest-texts.json").exists()
    files = [file for file in found.folder.rglob("*") if file.is_file()]
    assert not [file for file in files if b"text 1 1" in file.read_bytes()]


@pytest.mark.parametrize("tune", ["prompt", "adapter"])
def test_a_tuned_part_is_all_that_travels(tune: str, run: fedlens.Run, table: Path, tmp_path: Path) -> None:
    weights = run.folder / "model" / "model.safetensors"
    more = (f"model.tune={tune}", f"model.weights={weights}", "federated.num_rounds=2", "optimizer.lr=0.001")
    found = fedlens.run(None, *settings(table, tmp_path, *DUAL, *more), show=False)
    before, after = run.model.state_dict(), found.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    parts = after.keys() - before.keys()
    sent = sum(after[name].nbytes for name in parts)
    assert 0 < sent < 100_000
    line = read_metrics(found.folder / "metrics.jsonl")[-1]
    assert line["bytes_up"] == sent * len(line["cohort"])


def asked(*command: object) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, [*map(str, command), "--json"])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("method", ["name=fedper personalization.head=backbone.text", "name=ditto"])
def test_a_client_recognises_and_searches_by_its_own_model(
    method: str, four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLENS_CACHE", str(tmp_path / "cache"))
    short = (
        "federated.num_rounds=1",
        "federated.fraction_fit=1",
        "federated.local_epochs=1",
        f"data.cache_dir={tmp_path / 'cache'}",
    )
    own = [f"personalization.{method.split(maxsplit=1)[0]}", *method.split()[1:]]
    run = fedlens.run(None, *settings(four, tmp_path, *DUAL, *short, *own), show=False)
    picture, names, text = four.with_name("1.png"), ["cup", "red fork"], "text 1"
    inputs = torch.tensor(read(picture, size=20, channels=3))[None]
    predicted, found = [], []
    for client in ("client0", "client1"):
        model = run.model_of(client)
        assert isinstance(model, DualEncoder)
        with torch.no_grad():
            expected = model.with_classes(names)(model.prepare(inputs))[0].softmax(0)
            likeness = model.backbone(model.prepare(inputs))[0] @ model.features_of(text)
        (guesses,) = asked("predict", run.folder, picture, "--classes", ",".join(names), "--client", client)
        predicted.append({guess["class"]: guess["probability"] for guess in guesses["top"]})
        assert predicted[-1] == pytest.approx(dict(zip(names, expected.tolist(), strict=True)), rel=1e-4)
        (match,) = asked("search", run.folder, picture, "--text", text, "--client", client)
        found.append(match["similarity"])
        assert found[-1] == pytest.approx(float(likeness), abs=1e-4)
    if "ditto" in method:  # there is a shared model, too
        (guesses,) = asked("predict", run.folder, picture, "--classes", ",".join(names))
        predicted.append({guess["class"]: guess["probability"] for guess in guesses["top"]})
        found.append(asked("search", run.folder, picture, "--text", text)[0]["similarity"])
    assert len({round(one["cup"], 6) for one in predicted}) == len({round(one, 6) for one in found}) == len(found)


def test_moon_draws_features_from_the_second_round_on(run: fedlens.Run, table: Path, tmp_path: Path) -> None:
    more = ("strategy.name=moon", "strategy.mu=5", "federated.num_rounds=2")
    moon = fedlens.run(None, *settings(table, tmp_path, *DUAL, *more), show=False)
    plain, drawn = (read_metrics(one.folder / "metrics.jsonl") for one in (run, moon))
    assert plain[0]["train_loss"] == drawn[0]["train_loss"]
    assert drawn[1]["train_loss"] not in (plain[1]["train_loss"], drawn[0]["train_loss"])
    assert not any(line["failures"] for line in drawn)
    assert drawn[1]["test"]["accuracy"] > 0.6


def test_a_run_names_a_class_whose_name_is_cut(four: Path, tmp_path: Path) -> None:
    whole, _ = built(four, tmp_path, "data.held_out=[spoon]", "model.max_tokens=7")
    assert whole.notes == ()
    cut, _ = built(four, tmp_path, "data.held_out=[spoon]", "model.max_tokens=6")
    (note,) = cut.notes
    assert note.startswith("class 'cup' and 3 others: the end is not read")
    assert "model.max_tokens" in note


def test_names_of_classes_are_enough_where_it_learns_labels(table: Path, tmp_path: Path) -> None:
    with table.open(encoding="utf-8") as file:
        rows = [(row["path"], row["label"]) for row in csv.DictReader(file) if row["path"]]
    plain = table.with_name("images.csv")
    with plain.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    with pytest.raises(DataError, match=r"model\.learns=labels"):
        built(plain, tmp_path, "data.partition.scheme=iid")
    few = ("data.partition.scheme=iid", "data.partition.clients=2", "model.learns=labels")
    found = fedlens.run(None, *settings(plain, tmp_path, *DUAL, *few), show=False)
    last = read_metrics(found.folder / "metrics.jsonl")[-1]
    assert last["test"]["accuracy"] > 0.6
    assert not any(name.startswith(("modality/", "retrieval/")) for name in measures(found)[-1])


@pytest.mark.parametrize("image", ["lenet", "cnn"])
def test_a_frozen_image_backbone_is_computed_once(image: str, table: Path, tmp_path: Path) -> None:
    more = ("model.freeze=backbone.image.0", "model.lock_text=true", f"model.image={image}")
    experiment, model = built(table, tmp_path, *more)
    assert model.held == (model.backbone.text, model.backbone.image[0])
    assert experiment.train_data.images.shape[1:] == (model.backbone.image[1].in_features,)
    assert experiment.shared.keys() == {"backbone.image.1.weight", "head.scale", "head.bias"}


@pytest.mark.parametrize(
    "more",
    [
        "model.lock_text=true model.freeze=2",
        "model.text=minilm model.freeze=backbone",
        "model.name=fusion model.freeze=backbone.text",
    ],
)
def test_something_has_to_be_left_to_train(more: str, table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.freeze"):
        fedlens.run(None, *settings(table, tmp_path, *DUAL, *more.split()), show=False)


def test_a_frozen_image_backbone_neither_changes_nor_travels(table: Path, tmp_path: Path) -> None:
    more = ("model.freeze=1", "model.lock_text=true", "federated.num_rounds=1")
    experiment, model = built(table, tmp_path, *more)
    assert model.held == (model.backbone.text, model.backbone.image[0])
    trained = experiment.resident.module
    assert isinstance(trained, DualEncoder)
    assert trained.held == (trained.backbone.text,)
    assert experiment.train_data.images.shape[1:] == (84,)  # LeNet's features
    assert experiment.shared.keys() == {"backbone.image.1.weight", "head.scale", "head.bias"}
    found = fedlens.run(None, *settings(table, tmp_path, *DUAL, *more), show=False)
    changed = {name for name, value in found.model.state_dict().items() if not value.equal(model.state_dict()[name])}
    assert "backbone.image.1.weight" in changed <= experiment.shared.keys()
    assert {"modality/image_only", "retrieval/text_to_image_at_1"} <= measures(found)[-1].keys()


def test_what_does_not_go_with_it(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.freeze"):
        load(None, settings(table, tmp_path, *DUAL, "model.freeze=backbone"))
    with pytest.raises(ConfigError, match=r"write \{\} once"):
        built(table, tmp_path, "model.prompt=a photo")


def test_rows_without_a_label_train_by_their_pairs(table: Path, tmp_path: Path) -> None:
    """A client that has no label at all trains; its pairs alone move the model."""
    rows = list(csv.reader(table.read_text(encoding="utf-8").splitlines()))
    more = [
        [str(table.parent / path), "" if client == "both3" else label, client, text]
        for path, label, client, text in rows[1:]
        if path
    ]
    (tmp_path / "some.csv").write_text("\n".join(",".join(row) for row in [rows[0], *more]), encoding="utf-8")
    short = (*DUAL, "federated.num_rounds=1", "federated.evaluate_every=1")
    with_them = fedlens.run(None, *settings(tmp_path / "some.csv", tmp_path, *short), show=False)
    (line,) = read_metrics(with_them.folder / "metrics.jsonl")
    (theirs,) = [one for one in line["cohort"] if one["client"] == "both3"]
    assert theirs["weight"] == 24
    assert theirs["metrics"]["update_norm"] > 0
    assert theirs["metrics"]["loss"] is None
    others = [one["metrics"]["loss"] for one in line["cohort"] if one["client"] != "both3"]
    assert all(loss > 0 for loss in others)
    assert partition(load_run(with_them.folder).partition).data[-1].y.tolist() == [0, 0, 24, 0]
    for needs_labels in ("model.learns=labels", "strategy.name=qfedavg", "strategy.name=fedproto"):
        more = (needs_labels, "federated.missing_modalities=average", "optimizer.name=sgd")
        labels_alone = fedlens.run(None, *settings(tmp_path / "some.csv", tmp_path, *short, *more), show=False)
        (line,) = read_metrics(labels_alone.folder / "metrics.jsonl")
        assert "both3" not in {one["client"] for one in line["cohort"]}
    mixed = (*short, "personalization.name=fedala", "federated.num_rounds=2", "federated.missing_modalities=average")
    fedala = fedlens.run(None, *settings(tmp_path / "some.csv", tmp_path, *mixed), show=False)
    assert not any(line["failures"] for line in read_metrics(fedala.folder / "metrics.jsonl"))
