"""Runs of dual encoders: what is measured of them, by hand; held-out classes; a part that is tuned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.test_multimodal import measures, settings, write_table

import fedlens
from fedlens.build.experiment import Experiment, build_experiment
from fedlens.build.load import load
from fedlens.build.measures import retrieval_measure, zero_shot_measure
from fedlens.errors import ConfigError
from fedlens.models.base import beside_texts
from fedlens.models.dual_encoder import DualEncoder
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


def test_held_out_classes_are_recognised_by_their_names_by_hand(table: Path, tmp_path: Path) -> None:
    experiment, model = built(table, tmp_path, "data.held_out=[fork]")
    data, measure = experiment.train_data, zero_shot_measure(experiment)
    assert data.class_names == ("cup", "plate")
    assert data.held_out is not None
    assert measure is not None
    with torch.no_grad():  # prompts of an untrained model are alike: their difference decides
        model.backbone.text.project.weight.normal_(generator=torch.Generator().manual_seed(0))
    images = model.prepare(data.images[data.held_out.rows])
    features = model.backbone(images)
    everything = model.read_classes(["cup", "plate", "fork"])
    texts = torch.nn.functional.normalize(model.backbone.text(everything), dim=1)
    expected = float(((features @ texts.T).argmax(1) == 2).float().mean())
    found = measure(experiment.shared)
    assert found == {"zero_shot/held_out": 1.0, "zero_shot/all": pytest.approx(expected)}
    assert len(model.class_inputs) == 2


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
    likeness, labels = (text @ image.T), data.labels[rows]  # all rows of a class have one text
    first = likeness.topk(5, dim=1).indices
    expected = (labels[first] == labels[:, None]).any(1).float().mean()
    assert measure(experiment.shared)["retrieval/text_to_image_at_5"] == pytest.approx(float(expected))


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


def test_what_does_not_go_with_it(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.freeze"):
        load(None, settings(table, tmp_path, *DUAL, "model.freeze=backbone"))
    with pytest.raises(ConfigError, match=r"write \{\} once"):
        built(table, tmp_path, "model.prompt=a photo")
