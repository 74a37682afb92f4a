"""What each attack makes of images, labels and updates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.aggregation.updates import random_updates
from tests.helpers import tiny_data

from fedlens.attacks.alie import ALittleIsEnough, moments_of, z_max
from fedlens.attacks.backdoor import Backdoor
from fedlens.attacks.base import AttackContext, attacks
from fedlens.attacks.gaussian import Gaussian
from fedlens.attacks.label_flip import LabelFlip
from fedlens.attacks.moments import Moments
from fedlens.attacks.none import NoAttack
from fedlens.attacks.scale import Scale
from fedlens.attacks.sign_flip import SignFlip

ROWS = np.arange(10, 50)
DATA = tiny_data()


def ctx(results: int = 10, seed: int = 0, share: float = 0.2, benign: Moments | None = None) -> AttackContext:
    return AttackContext(results, torch.Generator().manual_seed(seed), share, benign)


def pictures(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (count, 8, 8, 1), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % 3


def test_labels_are_counted_from_the_other_end() -> None:
    images, labels = pictures(6)
    poison = LabelFlip().poison(ROWS, classes=3, seed=0)
    assert poison is not None
    seen, flipped = poison(torch.arange(6), images.clone(), labels)
    assert flipped.tolist() == [2, 1, 0, 2, 1, 0]
    assert torch.equal(seen, images)


def test_signs_are_flipped_and_updates_stretched() -> None:
    honest = random_updates(2)
    for sent, update in zip(SignFlip(factor=4.0).craft(honest, ctx()), honest, strict=True):
        assert all(torch.equal(sent[name], -4 * value) for name, value in update.items())


def test_noise_has_the_asked_deviation_and_is_drawn_from_the_seed() -> None:
    honest = [{"bias": torch.full((100_000,), 5.0)}] * 2
    one, other = (sent["bias"] for sent in Gaussian(std=3.0).craft(honest, ctx()))
    assert abs(one.mean()) < 0.1
    assert one.std() == pytest.approx(3.0, rel=0.02)
    assert not torch.equal(one, other)
    assert torch.equal(Gaussian(std=3.0).craft(honest, ctx())[0]["bias"], one)
    assert not torch.equal(Gaussian(std=3.0).craft(honest, ctx(seed=1))[0]["bias"], one)


@pytest.mark.parametrize("malicious", [1, 3])
def test_a_little_is_enough_by_hand(malicious: int) -> None:
    # the benign clients' 1, 3, 5: mean 3, deviation √((4 + 0 + 4) / 3); what the malicious would have sent is not in it
    benign = moments_of([{"bias": torch.tensor([value])} for value in (1.0, 3.0, 5.0)])
    honest = [{"bias": torch.tensor([float(value)])} for value in range(malicious)]
    sent = ALittleIsEnough(z=1.5).craft(honest, ctx(benign=benign))
    assert [update["bias"].item() for update in sent] == pytest.approx([3 - 1.5 * (8 / 3) ** 0.5] * malicious)


def test_a_little_is_enough_by_what_the_malicious_know() -> None:
    honest = [{"bias": torch.tensor([value])} for value in (1.0, 3.0, 5.0)]
    sent = ALittleIsEnough(z=1.5, knows="own").craft(honest, ctx())
    assert [update["bias"].item() for update in sent] == pytest.approx([3 - 1.5 * (8 / 3) ** 0.5] * 3)
    (alone,) = ALittleIsEnough(z=1.5, knows="own").craft(honest[:1], ctx())
    assert alone["bias"].item() == 1.0  # of one update σ is 0


@pytest.mark.parametrize(
    ("answers", "malicious", "expected"),
    [
        (50, 24, 1.4260),  # s = 26 − 24 = 2: φ(z) = 24/26
        (20, 4, 0.1573),  # s = 11 − 4 = 7: φ(z) = 9/16
        (10, 2, 0.0),  # s = 6 − 2 = 4: φ(z) = 4/8
        (10, 1, 0.0),  # φ(z) = 4/9, below the mean
        (10, 6, 0.6745),  # a majority: s = 1, φ(z) = 3/4
        (3, 3, 0.0),  # nobody to hide among
    ],
)
def test_the_largest_z_that_passes(answers: int, malicious: int, expected: float) -> None:
    assert z_max(answers, malicious) == pytest.approx(expected, abs=1e-4)
    honest = [{"bias": torch.tensor([float(value)])} for value in range(malicious)]
    mean, deviation = np.mean(range(malicious)), np.std(range(malicious))
    (sent, *_) = ALittleIsEnough().craft(honest, ctx(answers))
    assert sent["bias"].item() == pytest.approx(mean - expected * deviation, abs=1e-3)


def test_a_share_of_images_gets_a_patch_and_the_target() -> None:
    images, labels = pictures()
    poison = Backdoor(patch=3, target=2, share=0.25).poison(ROWS, classes=3, seed=5)
    assert poison is not None
    seen, poisoned = poison(torch.from_numpy(ROWS), images.clone(), labels)
    patched = (seen[:, 5:, 5:, :] == 255).flatten(1).all(1)
    assert int(patched.sum()) == 10
    assert (poisoned[patched] == 2).all()
    assert torch.equal(poisoned[~patched], labels[~patched])
    assert torch.equal(seen[~patched], images[~patched])
    assert torch.equal(seen[:, :5], images[:, :5])
    assert torch.equal(seen[:, 5:, :5], images[:, 5:, :5])


def test_the_same_images_are_poisoned_in_every_batch() -> None:
    images, labels = pictures()
    attack, rows = Backdoor(patch=3, target=2, share=0.25), torch.from_numpy(ROWS)
    poison = attack.poison(ROWS, classes=3, seed=5)
    assert poison is not None
    _, whole = poison(rows, images.clone(), labels)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    _, shuffled = poison(rows[order], images[order], labels[order])
    assert torch.equal(shuffled, whole[order])


def test_the_trigger_is_on_every_image() -> None:
    trigger = Backdoor(patch=3, target=2).trigger()
    assert trigger is not None
    images, labels = pictures()
    seen, wanted = trigger.stamp(torch.from_numpy(ROWS), images, labels)
    assert (seen[:, 5:, 5:, :] == 255).all()
    assert (wanted == 2).all()
    floats, _ = trigger.stamp(torch.arange(2), torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    assert floats.sum() == 2 * 9
    assert (floats[:, :, 5:, 5:] == 1).all()


def test_model_replacement_makes_the_mean_the_malicious_model() -> None:
    honest = random_updates(2)
    (one, other) = Scale().craft(honest, ctx(results=10, share=2 / 10))
    # the other eight send nothing, and all weigh alike: the mean of ten is the mean of the two
    assert torch.allclose((one["bias"] + other["bias"]) / 10, (honest[0]["bias"] + honest[1]["bias"]) / 2)
    assert torch.equal(Scale(factor=7.0).craft(honest, ctx())[0]["bias"], 7 * honest[0]["bias"])
    assert Scale(share=1.0).poison(ROWS, 3, 0) is not None
    assert Scale().trigger() is not None


def test_honesty_changes_nothing() -> None:
    honest = random_updates(2)
    assert NoAttack().craft(honest, ctx()) is honest
    assert NoAttack().poison(ROWS, 3, 0) is None
    assert NoAttack().trigger() is None


@pytest.mark.parametrize("entry", attacks.entries(), ids=lambda entry: entry.name)
def test_every_attack_keeps_names_and_shapes_and_leaves_the_honest_alone(entry) -> None:
    attack, honest = entry.build({}), random_updates(3)
    before = [{name: value.clone() for name, value in update.items()} for update in honest]
    sent = attack.craft(honest, ctx())
    assert len(sent) == 3
    for update, kept, made in zip(honest, before, sent, strict=True):
        assert all(torch.equal(update[name], kept[name]) for name in kept)
        assert {name: value.shape for name, value in made.items()} == {n: v.shape for n, v in update.items()}
    assert attack.incompatibility(DATA) is None


@pytest.mark.parametrize(
    ("attack", "parts"),
    [
        (Backdoor(target=3), ["target = 3", "3 classes, from 0 to 2"]),
        (Backdoor(patch=8), ["patch = 8", "8 pixels a side"]),
        (Scale(target=7), ["target = 7"]),
    ],
)
def test_what_does_not_go_with_the_images(attack, parts: list[str]) -> None:
    for part in parts:
        assert part in str(attack.incompatibility(DATA))


def test_rows_of_numbers_bear_no_patch() -> None:
    rows = replace(DATA, images=torch.zeros(len(DATA.images), 32))
    assert "a patch needs images" in str(Backdoor().incompatibility(rows))
    assert LabelFlip().incompatibility(rows) is None
