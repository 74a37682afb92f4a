"""MOON's loss by the formula, its training against the same done again, and where it is refused."""

import copy
import math

import pytest
import torch
from tests.helpers import CPU, tiny_model
from tests.strategies.replay import Replay, close, settings
from torch import nn
from torch.func import functional_call

from fedlens.strategies.base import SharedModel
from fedlens.strategies.fedavg import FedAvg
from fedlens.strategies.moon import Moon, contrast
from fedlens.training.flat import FlatModel


def by_formula(z, near, far, temperature: float) -> torch.Tensor:
    """Eq. 3 as printed, image by image."""
    losses = []
    for a, b, c in zip(z.flatten(1), near.flatten(1), far.flatten(1), strict=True):
        towards, away = (torch.exp(a @ other / (a.norm() * other.norm()) / temperature) for other in (b, c))
        losses.append(-torch.log(towards / (towards + away)))
    return torch.stack(losses).mean()


def test_the_loss_is_equation_3() -> None:
    generator = torch.Generator().manual_seed(0)
    z, near, far = (torch.randn(5, 6, generator=generator) for _ in range(3))
    torch.testing.assert_close(contrast(z, near, far, 0.5), by_formula(z, near, far, 0.5))
    # sim = 1 and 0, τ = 0.5: −log(e² / (e² + 1))
    axes = torch.eye(2)
    expected = -math.log(math.e**2 / (math.e**2 + 1))
    assert contrast(axes[:1], axes[:1], axes[1:], 0.5).item() == pytest.approx(expected)


def test_the_first_round_is_fedavg_and_later_ones_contrast_with_the_model_before(tmp_path) -> None:
    how = settings(momentum=0.9)
    replay = Replay(Moon(mu=2.0, temperature=0.3), tmp_path, how)
    first = replay.train(1, replay.model)
    plain = Replay(FedAvg(), tmp_path / "plain", how)
    assert all(torch.equal(value, plain.train(1, replay.model).payload[name]) for name, value in first.payload.items())

    kept = replay.kept(1)
    backbone = {name for name in replay.model if name.startswith("backbone.")}
    close(kept, {name: replay.model[name] + first.payload[name] for name in backbone})
    assert kept.keys() == backbone

    received = {name: value + 0.1 * first.payload[name] for name, value in replay.model.items()}
    glob, prev = tiny_model(), tiny_model()
    glob.load_state_dict(received, strict=False)
    prev.load_state_dict(kept, strict=False)
    glob.eval(), prev.eval()

    def term(module, inputs, labels):
        with torch.no_grad():
            near, far = glob.backbone(inputs), prev.backbone(inputs)
        # A second pass, which the shared loop does without, and which is not to move the running statistics again.
        aside = {name: value.clone() for name, value in module.backbone.named_buffers()}
        return 2.0 * by_formula(functional_call(module.backbone, aside, inputs), near, far, 0.3)

    second = replay.train(2, received, store_version=1)
    module, _ = replay.again(2, received, term)
    after = module.state_dict()
    close({name: received[name] + second.payload[name] for name in received}, {name: after[name] for name in received})
    without = plain.train(2, received)
    assert (without.payload["backbone.0.weight"] - second.payload["backbone.0.weight"]).abs().max() > 1e-3


def test_models_that_it_cannot_work_with() -> None:
    assert Moon().incompatibility(SharedModel(tiny_model())) is None
    assert "fedlens.models.base.Recognizer" in (Moon().incompatibility(SharedModel(nn.Linear(2, 2))) or "")
    frozen = tiny_model()
    frozen.backbone.requires_grad_(False)
    assert "use model.freeze=none" in (Moon().incompatibility(SharedModel(frozen)) or "")


def test_the_copies_do_not_follow_the_model_in_training() -> None:
    """The resident model's parameters are views of one vector; a copy's are its own."""
    flat = FlatModel(tiny_model(), CPU)
    held = copy.deepcopy(flat.module.backbone)
    before = held[0].weight.clone()
    flat.vector.add_(1.0)
    assert torch.equal(held[0].weight, before)
