"""Whole runs under attack, as users start them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import fedlens
from fedlens.build.experiment import build_experiment
from fedlens.build.load import load
from fedlens.core.files import read_json
from fedlens.errors import NotEnoughClients
from fedlens.tracking.metrics import read_metrics

FEW = (
    "model.name=lenet",
    "federated.num_rounds=2",
    "runtime.name=in_process",
    "tracking.tensorboard=false",
    "optimizer.lr=0.05",
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def squares(count: int, broken: bool = False) -> TensorDataset:
    """Dark 16 × 16 images of three classes, told apart by which third of the upper rows is grey."""
    labels = torch.arange(count) % 3
    images = torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(count)) * 0.2
    for index, label in enumerate(labels.tolist()):
        images[index, 0, :8, 5 * label : 5 * label + 5] += 0.4
    if broken:
        images[:, 0, 3, 3] = torch.nan
    return TensorDataset(images, labels)


def clients(number: int, broken: int = 0) -> dict[str, TensorDataset]:
    return {f"site{index}": squares(60 + index, broken=index < broken) for index in range(number)}


def linear() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3))


def under_attack(*overrides: str) -> list[dict]:
    run = fedlens.run(
        None, *FEW[1:], "federated.num_rounds=4", "federated.local_epochs=2", *overrides,
        show=False, model=linear(), data=clients(5), test=squares(90),
    )  # fmt: skip
    return read_metrics(run.folder / "metrics.jsonl")


def test_a_backdoor_is_measured_and_a_median_keeps_it_out() -> None:
    attack = ("attack.name=scale", "attack.patch=5", "attack.target=1", "attack.fraction=0.2")
    taken, kept = under_attack(*attack), under_attack(*attack, "aggregation.name=median")
    assert taken[-1]["measures"]["attack/success"] > 0.9
    assert kept[-1]["measures"]["attack/success"] < 0.3
    assert kept[-1]["test"]["accuracy"] > 0.9
    assert {line["measures"]["attack/malicious"] for line in (*taken, *kept)} == {0.2}


def test_a_patch_is_put_on_images_where_a_part_of_the_model_is_frozen(tmp_path) -> None:
    """Features that were computed once would be those of images without it."""
    given = ["model.name=cnn", "data.image_size=12", "model.freeze=backbone"]

    def trained_on(*more: str) -> torch.Tensor:
        return build_experiment(load(None, [*given, *more]), tmp_path, quiet, model=None, data=None).train_data.images

    assert trained_on().is_floating_point()
    assert trained_on("attack.name=label_flip").is_floating_point()
    assert trained_on("attack.name=backdoor").dtype == torch.uint8
    run = fedlens.run(None, *FEW[1:], *given, "attack.name=backdoor", "federated.num_rounds=1", show=False)
    assert "attack/success" in read_metrics(run.folder / "metrics.jsonl")[-1]["measures"]


def quiet(_label: str):
    return lambda _done, _all: None


def test_every_round_says_how_many_attack_where_parts_stay_at_home_too() -> None:
    run = fedlens.run(
        None, *FEW, "attack.name=sign_flip", "personalization.name=fedper", "federated.num_rounds=2",
        "federated.evaluate_every=0", show=False,
    )  # fmt: skip
    lines = read_metrics(run.folder / "metrics.jsonl")
    assert [line["measures"]["attack/malicious"] for line in lines] == [0.2, 0.2]


def test_who_attacks_is_noted_and_the_same_whoever_asks() -> None:
    run = fedlens.run(None, *FEW, "attack.name=label_flip", show=False)
    (note,) = [note for note in read_json(run.folder / "data.json")["notes"] if note.startswith("attack")]
    assert note.startswith("attack label_flip: 2 clients are malicious (shop-")
    assert note in run.report.read_text(encoding="utf-8")
    again = fedlens.run(None, *FEW, "attack.name=label_flip", "aggregation.name=median", show=False)
    assert note in read_json(again.folder / "data.json")["notes"]


def test_a_run_under_attack_goes_on_as_if_it_had_never_stopped() -> None:
    attack = ("attack.name=gaussian", "attack.std=0.01", "aggregation.name=trimmed_mean")
    whole = fedlens.run(None, *FEW, *attack, show=False)
    half = fedlens.run(None, *FEW, *attack, "federated.num_rounds=1", show=False)
    (half.folder / "result.json").unlink()
    resumed = fedlens.resume(half.folder, "federated.num_rounds=2", show=False)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_too_few_usable_answers_stop_the_run_which_is_kept() -> None:
    """Two of six answers are not finite, and Krum with f = 1 needs five."""
    with pytest.raises(NotEnoughClients, match=r"usable result: aggregation\.f = 1: krum needs .* = 5 .* there are 4"):
        fedlens.run(
            None,
            *FEW[1:],
            "aggregation.name=krum",
            show=False,
            model=linear(),
            data=clients(6, broken=2),
            test=squares(30),
        )
    (folder,) = Path("logs").iterdir()
    assert (folder / "config.yaml").exists()


def test_attackers_count_in_no_figure_that_judges_the_run() -> None:
    """With FedPer each client has a head of its own; four of the ten flip labels. Validation is of the other six."""
    run = fedlens.run(
        None, *FEW, "personalization.name=fedper", "attack.name=label_flip", "attack.fraction=0.4",
        "federated.fraction_fit=1.0", "federated.local_epochs=2", show=False,
    )  # fmt: skip
    last = read_metrics(run.folder / "metrics.jsonl")[-1]
    benign = [one for one in last["clients"]["by_client"] if not one["malicious"]]
    others = [one for one in last["clients"]["by_client"] if one["malicious"]]
    assert (len(benign), len(others), last["clients"]["malicious"]) == (6, 4, 4)
    assert last["clients"]["accuracy"] == pytest.approx(sum(one["accuracy"] for one in benign) / 6)
    assert last["clients"]["malicious_accuracy"] == pytest.approx(sum(one["accuracy"] for one in others) / 4)
    assert last["clients"]["accuracy"] > last["clients"]["malicious_accuracy"]
    partition = read_json(run.folder / "partition.json")["clients"]
    assert last["validation"]["examples"] == sum(sum(partition[one["client"]]["val"]) for one in benign)
