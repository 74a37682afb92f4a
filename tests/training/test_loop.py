"""The shared loop against torch.optim and autograd, and each option against what it should do."""

import copy

import numpy as np
import pytest
import torch
from tests.helpers import CPU, tiny_model
from torch import nn
from torch.nn import functional as F

from fedlens.strategies.base import LocalTerms
from fedlens.training.flat import FlatModel
from fedlens.training.loop import STEPS, LocalLoop, Tally, mixing
from fedlens.training.optimizers.adamw import AdamW
from fedlens.training.optimizers.base import VectorOptimizer
from fedlens.training.optimizers.sgd import SGD
from fedlens.training.sections import MemorySection, OptimizerSection
from fedlens.training.settings import LocalSettings


def batches(count: int = 5, size: int = 8, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(size, 1, 8, 8, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def trained(settings: LocalSettings, lr: float = 0.1, terms: LocalTerms | None = None, data=None) -> FlatModel:
    model = FlatModel(tiny_model(), CPU)
    loop = LocalLoop(model, settings, terms or LocalTerms())
    loop.run(data or batches(), VectorOptimizer(settings.optimizer, {}), lr, torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(momentum=0.9, weight_decay=0.01), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01)),
        (SGD(momentum=0.0), lambda p: torch.optim.SGD(p, 0.1)),
        (AdamW(weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1)),
    ],
    ids=["momentum", "plain", "adamw"],
)
def test_steps_are_those_of_torch_optim(ours, theirs) -> None:
    reference = tiny_model()
    optimizer = theirs(reference.parameters())
    for inputs, labels in batches():
        optimizer.zero_grad()
        F.cross_entropy(reference(inputs), labels).backward()
        optimizer.step()
    model = trained(LocalSettings(optimizer=ours))
    for name, value in reference.state_dict().items():
        assert torch.allclose(model.module.state_dict()[name].float(), value.float(), atol=1e-6), name


def test_micro_batches_give_the_gradient_of_the_whole_batch() -> None:
    def without_norm(settings: LocalSettings) -> torch.Tensor:
        torch.manual_seed(0)
        model = FlatModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), CPU)
        loop = LocalLoop(model, settings, LocalTerms())
        loop.run(batches(), VectorOptimizer(settings.optimizer, {}), 0.1, torch.Generator())
        return model.vector

    whole, pieces = without_norm(LocalSettings()), without_norm(LocalSettings(memory=MemorySection(micro_batch=3)))
    assert torch.allclose(whole, pieces, atol=1e-6)


def test_clipping_bounds_the_step() -> None:
    before = FlatModel(tiny_model(), CPU).vector
    settings = LocalSettings(optimizer=SGD(momentum=0.0), training=OptimizerSection(clip_norm=0.01))
    after = trained(settings, lr=1.0, data=batches(1)).vector
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_correction_is_added_to_every_gradient() -> None:
    settings = LocalSettings(optimizer=SGD(momentum=0.0), training=OptimizerSection(clip_norm=1e-9))
    before = FlatModel(tiny_model(), CPU).vector
    pull = LocalTerms(correction=torch.ones_like)
    after = trained(settings, lr=0.1, terms=pull, data=batches(1)).vector
    assert torch.allclose(after, before - 0.1, atol=1e-6)


def test_a_loss_term_is_added_to_the_cross_entropy() -> None:
    def penalty(_model: nn.Module, _inputs: torch.Tensor, logits: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
        return logits.square().mean()

    reference = tiny_model()
    ((inputs, labels),) = batches(1)
    logits = reference(inputs)
    (F.cross_entropy(logits, labels) + logits.square().mean()).backward()
    settings = LocalSettings(optimizer=SGD(momentum=0.0))
    model = trained(settings, lr=0.1, terms=LocalTerms(loss=penalty), data=batches(1))
    for name, parameter in reference.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        assert torch.allclose(model.module.get_parameter(name), expected, atol=1e-6), name


def test_metrics_are_weighted_by_images() -> None:
    model = FlatModel(tiny_model(), CPU)
    frozen = copy.deepcopy(model.module).train()
    data = [(inputs[:size], labels[:size]) for (inputs, labels), size in zip(batches(2), (8, 2), strict=True)]
    metrics = LocalLoop(model, LocalSettings(), LocalTerms()).run(
        data, VectorOptimizer(SGD(momentum=0.0), {}), 1e-12, torch.Generator()
    )
    losses = [F.cross_entropy(frozen(inputs), labels).item() for inputs, labels in data]
    assert metrics["loss"].weight == 10
    assert metrics["loss"].value == pytest.approx((8 * losses[0] + 2 * losses[1]) / 10, rel=1e-5)


def test_a_lone_image_trains_and_counts_once() -> None:
    model = FlatModel(tiny_model(), CPU)
    before = model.vector.clone()
    inputs, labels = batches(1)[0]
    metrics = LocalLoop(model, LocalSettings(), LocalTerms()).run(
        [(inputs[:1], labels[:1])], VectorOptimizer(SGD(), {}), 0.1, torch.Generator()
    )
    assert metrics["loss"].weight == 1
    assert not torch.equal(before, model.vector)


@pytest.mark.parametrize(
    "settings",
    [LocalSettings(memory=MemorySection(precision="bf16")), LocalSettings(memory=MemorySection(precision="fp16"))],
)
def test_mixed_precision_follows_float32(settings: LocalSettings) -> None:
    exact, mixed = trained(LocalSettings()).vector, trained(settings).vector
    assert mixed.dtype == torch.float32
    assert not torch.equal(exact, mixed)
    assert torch.allclose(exact, mixed, atol=0.05)


def bright(factor: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(inputs * factor, labels) for inputs, labels in batches()]


def linear(settings: LocalSettings, data, lr: float = 1e-6) -> tuple[torch.Tensor, dict]:
    torch.manual_seed(0)
    model = FlatModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), CPU)
    loop = LocalLoop(model, settings, LocalTerms())
    metrics = loop.run(data, VectorOptimizer(settings.optimizer, {}), lr, torch.Generator())
    return model.vector, metrics


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_step_whose_gradient_overflows_fp16_is_taken_again_at_a_smaller_scale(micro_batch: int | None) -> None:
    """Here gradients are in the hundreds: 2¹² of that is beyond fp16's 65,504."""
    data = bright(2000)
    model = FlatModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), CPU)
    first = LocalLoop(model, LocalSettings(memory=MemorySection(precision="fp16")), LocalTerms())
    first._backward(*data[0], torch.Generator())
    assert not first._scale.unscale(model.gradient), "the test shows nothing"
    exact, _ = linear(LocalSettings(memory=MemorySection(micro_batch=micro_batch)), data)
    mixed, metrics = linear(LocalSettings(memory=MemorySection(precision="fp16", micro_batch=micro_batch)), data)
    start, _ = linear(LocalSettings(), data, lr=0)
    assert (mixed - exact).norm() < 0.01 * (exact - start).norm(), "no step is left out"
    assert metrics["loss"].weight == sum(len(labels) for _, labels in data), "and no image is counted twice"


def test_a_step_that_is_taken_again_is_the_same_step() -> None:
    """BatchNorm sees the batch once, and mixup draws what it drew."""
    settings = LocalSettings(memory=MemorySection(precision="fp16"), training=OptimizerSection(mixup=0.4))
    found = {}
    for first in (2.0**12, 2.0**30):  # at 2³⁰ the first attempts overflow
        model, generator = FlatModel(tiny_model(), CPU), torch.Generator().manual_seed(0)
        loop = LocalLoop(model, settings, LocalTerms())
        loop._scale._scale = first
        assert loop.differentiate(*batches()[0], generator)
        overflowed = loop._scale._scale < first
        assert overflowed == (first == 2.0**30), "the test shows nothing"
        found[first] = (model.statistics(), generator.get_state(), model.gradient.clone())
    (once, drawn, gradient), (again, drawn_again, gradient_again) = found.values()
    assert all(torch.equal(value, again[name]) for name, value in once.items())
    assert torch.equal(drawn, drawn_again)
    assert torch.allclose(gradient, gradient_again, atol=1e-3)


class Steep(torch.autograd.Function):
    """The identity, with a gradient of infinity."""

    @staticmethod
    def forward(ctx, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.inf


class Cliff(nn.Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return Steep.apply(super().forward(images.flatten(1)))


@pytest.mark.timeout(60)
def test_a_gradient_that_is_infinite_at_any_scale_is_left_out() -> None:
    model = FlatModel(Cliff(64, 3), CPU)
    before = model.vector.clone()
    loop = LocalLoop(model, LocalSettings(memory=MemorySection(precision="fp16")), LocalTerms())
    metrics = loop.run(batches(2), VectorOptimizer(SGD(), {}), 0.1, torch.Generator())
    assert torch.equal(model.vector, before)
    assert np.isfinite(metrics["loss"].total)
    assert metrics[STEPS].total == 0


@pytest.mark.timeout(60)
def test_a_loss_beyond_fp16_is_not_tried_again() -> None:
    data = bright(1e7)
    before, _ = linear(LocalSettings(), data, lr=0)
    after, metrics = linear(LocalSettings(memory=MemorySection(precision="fp16")), data)
    assert torch.equal(before, after)
    assert not np.isfinite(metrics["loss"].total)


def test_label_smoothing_and_mixup_change_the_result_and_repeat() -> None:
    plain = trained(LocalSettings()).vector
    for optimizer in (OptimizerSection(label_smoothing=0.2), OptimizerSection(mixup=0.4)):
        once, again = (trained(LocalSettings(training=optimizer)).vector for _ in range(2))
        assert torch.equal(once, again)
        assert not torch.equal(once, plain)


def test_mixup_shares_follow_the_beta_distribution() -> None:
    # Beta(0.4, 0.4) has mean 1/2 and variance 1 / (4 · 1.8)
    generator = torch.Generator().manual_seed(0)
    shares = np.array([mixing(4, 0.4, generator)[0] for _ in range(2000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / 7.2, abs=0.02)


def test_kept_optimizer_state_goes_on() -> None:
    """Two rounds with kept momentum are one run over the same batches."""
    settings, data = LocalSettings(), batches(4)
    whole = trained(settings, data=data)
    model = FlatModel(tiny_model(), CPU)
    kept: dict[str, torch.Tensor] = {}
    for part in (data[:2], data[2:]):
        optimizer = VectorOptimizer(settings.optimizer, kept)
        LocalLoop(model, settings, LocalTerms()).run(part, optimizer, 0.1, torch.Generator())
        kept = optimizer.state()
    assert torch.equal(whole.vector, model.vector)


@pytest.mark.parametrize("mixup", [0.0, 0.5])
@pytest.mark.parametrize("size", [8, 1])
def test_a_term_on_the_features_costs_no_second_pass(size: int, mixup: float) -> None:
    """It is given what the backbone made of the inputs that went in, and its gradient reaches the backbone."""
    model = FlatModel(tiny_model(), CPU)
    backbone = model.module.backbone
    passes: list[torch.Tensor] = []
    backbone.register_forward_hook(lambda module, given, made: passes.append(made))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def term(inputs: torch.Tensor, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert torch.equal(labels, batch[1])
        seen.append((inputs, features))
        return features.square().sum()

    settings = LocalSettings(batch_size=size, training=OptimizerSection(mixup=mixup))
    (batch,) = batches(1, size)
    gradients = []
    for terms in (LocalTerms(), LocalTerms(features=term)):
        LocalLoop(model, settings, terms).differentiate(*batch, torch.Generator().manual_seed(0))
        gradients.append(model.gradient.clone())
    ((inputs, features),) = seen
    assert len(passes) == 2
    assert torch.equal(features, passes[1][:size])
    assert torch.equal(inputs, batch[0]) == (mixup == 0 or size == 1)

    whole = inputs if size > 1 else torch.cat([inputs, inputs])
    named = dict(backbone.named_parameters(prefix="backbone"))
    expected = torch.autograd.grad(backbone(whole)[:size].square().sum(), list(named.values()))
    pulled = model.unflatten(gradients[1] - gradients[0])
    for name, value in zip(named, expected, strict=True):
        torch.testing.assert_close(pulled[name], value, atol=1e-4, rtol=1e-3)
    assert pulled["head.weight"].abs().max() < 1e-6


def test_the_loss_before_any_step_and_before_the_last_one() -> None:
    """Without steps (rate 0) they are the losses of the untrained model on the first and on the last batch."""
    model, settings, data = FlatModel(tiny_model(), CPU), LocalSettings(), batches(3)
    reference = tiny_model()
    first, last = (F.cross_entropy(reference(inputs), labels).item() for inputs, labels in (data[0], data[-1]))
    told = LocalLoop(model, settings, LocalTerms()).run(
        data, VectorOptimizer(settings.optimizer, {}), 0.0, torch.Generator().manual_seed(1)
    )
    assert told["loss_before"].value == pytest.approx(first, abs=1e-6)
    assert told["loss_after"].value == pytest.approx(last, abs=1e-6)
    assert told["loss_before"].weight == 8
    assert "clipped" not in told


@pytest.mark.parametrize(("clip", "share"), [(1e-9, 1.0), (1e9, 0.0)])
def test_the_share_of_steps_that_were_clipped(clip: float, share: float) -> None:
    model = FlatModel(tiny_model(), CPU)
    settings = LocalSettings(optimizer=SGD(momentum=0.0), training=OptimizerSection(clip_norm=clip))
    told = LocalLoop(model, settings, LocalTerms()).run(
        batches(3), VectorOptimizer(settings.optimizer, {}), 0.1, torch.Generator().manual_seed(1)
    )
    assert (told["clipped"].value, told["clipped"].weight) == (share, 3)


def test_a_batch_without_labels_is_no_sign_of_a_broken_step() -> None:
    """Its mean over no row is no number; a step of fp16 that overflows is taken again all the same."""
    nan, one = torch.tensor(float("nan")), torch.tensor(1.0)
    assert Tally([nan, one], labelled=[torch.tensor(0), torch.tensor(2)]).is_finite(0)
    assert not Tally([one, nan], labelled=[torch.tensor(0), torch.tensor(2)]).is_finite(0)
    assert not Tally([nan]).is_finite(0)
    assert Tally([nan, one]).is_finite(1)
