"""Who keeps what: FedPer, FedRep, LG-FedAvg, FedBABU and FedBN, and the models that they cannot use."""

import re

import pytest
from tests.helpers import tiny_model
from tests.personalization.benches import Double, Single, bench, slope, stands, step
from torch import nn

from fedlens.config.blocks import field_names
from fedlens.personalization.base import NO_TERMS, personalizations
from fedlens.personalization.fedbabu import FedBABU
from fedlens.personalization.fedbn import FedBN
from fedlens.personalization.fedper import FedPer
from fedlens.personalization.fedrep import FedRep
from fedlens.personalization.finetune import FineTune
from fedlens.personalization.lgfedavg import LGFedAvg
from fedlens.personalization.local import Local
from fedlens.training.loop import LocalLoop

HEAD = {"head.weight", "head.bias"}
NORM = {f"backbone.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
BODY = {"backbone.0.weight", *NORM}


@pytest.mark.parametrize(
    ("method", "private"),
    [
        (FedPer(), HEAD),
        (FedPer(head="backbone.1."), NORM),
        (FedRep(), HEAD),
        (LGFedAvg(), BODY),
        (Local(), HEAD | BODY),
        (FedBN(), NORM),
        (FedBABU(), set()),
        (FineTune(), set()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_stays(method, private: set[str]) -> None:
    model = tiny_model()
    assert {name for name in HEAD | BODY if method.is_private(name, model)} == private


@pytest.mark.parametrize("entry", personalizations.entries(), ids=lambda entry: entry.name)
def test_no_method_looks_at_the_images_more_often_than_it_says(entry, monkeypatch) -> None:
    """The bench has one image, so each batch is a pass."""
    method, batches = entry.build({}), []
    differentiate = LocalLoop.differentiate

    def counting(self, *batch) -> bool:
        batches.append(batch)
        return differentiate(self, *batch)

    monkeypatch.setattr(LocalLoop, "differentiate", counting)
    taken, kept = [], None
    for _ in range(2):  # the second time with what the client kept
        home = bench(Double(), 0.5, 0.5, 0.25, kept=kept, epochs=3)
        method.initialize(home)
        method.train(home, NO_TERMS)
        method.predict(home)
        taken.append(len(batches))
        batches.clear()
        kept = home.kept
    assert max(taken) <= method.passes(3)
    varies = not method.steps_only  # with the losses; with running statistics, which this model has none of
    assert varies or max(taken) == method.passes(3)


def test_norms_of_every_kind_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm1d(4, affine=True))
    assert [name for name, _ in model.named_parameters() if FedBN().is_private(name, model)] == [
        f"{place}.{part}" for place in (1, 2, 3) for part in ("weight", "bias")
    ]


def frozen(model, part: str):
    getattr(model, part).requires_grad_(False)
    return model


@pytest.mark.parametrize("name", [one.name for one in personalizations.entries() if "head" in field_names(one)])
@pytest.mark.parametrize(
    ("model", "head", "line"),
    [
        (Double(), "hed.", "head = 'hed.': no name .* begins so; they begin with body., head."),
        (Single(), "head.", "head = 'head.': all that this model trains is its head"),
        (frozen(tiny_model(), "backbone"), "head.", "all that this model trains is its head.*use model.freeze=none"),
        (frozen(tiny_model(), "head"), "head.", "no name of what this model trains begins so; they begin with backb"),
    ],
)
def test_a_head_that_is_not_there(name: str, model, head: str, line: str) -> None:
    method = personalizations.get(name).build({"head": head})
    assert re.search(line, method.incompatibility(model))


@pytest.mark.parametrize("entry", personalizations.entries(), ids=lambda entry: entry.name)
def test_a_model_with_body_head_and_norms_is_anybodys(entry) -> None:
    assert entry.build({}).incompatibility(tiny_model()) is None


def test_a_model_without_norms_is_refused() -> None:
    assert "has no normalisation layer that trains" in FedBN().incompatibility(Double())
    assert "has no normalisation layer that trains" in FedBN().incompatibility(frozen(tiny_model(), "backbone"))
    assert "trains nothing else" in FedBN().incompatibility(nn.Sequential(nn.LayerNorm(3)))


def test_a_fixed_head_of_zeros_is_refused() -> None:
    model = tiny_model()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    assert "begins at zero" in FedBABU().incompatibility(model)
    assert FedPer().incompatibility(model) is None


def forward_and_back(c: float, a: float, b: float) -> tuple[float, tuple[float, float]]:
    """∇ of `Double`'s loss by c, and by (a, b): the chain rule through h = c."""
    error = slope((a, b), 1.0 * c)  # with respect to (a, b)
    by_logit = (error[0] / c, error[1] / c)
    return by_logit[0] * a + by_logit[1] * b, error


def test_fedrep_trains_the_head_and_then_the_body() -> None:
    home = bench(Double(), 0.5, 0.4, -0.2, epochs=2)
    FedRep(head_epochs=3).train(home, NO_TERMS)
    c, head = 0.5, (0.4, -0.2)
    for _ in range(3):
        head = step(head, forward_and_back(c, *head)[1], 0.5)
    for _ in range(2):
        c -= 0.5 * forward_and_back(c, *head)[0]
    assert stands(home) == pytest.approx([c, *head])
    assert c != pytest.approx(0.5, abs=1e-3)


def test_fedrep_gives_the_body_fresh_momentum() -> None:
    """Ten epochs of the head's gradients leave nothing in what moves the body."""
    first, second = (bench(Double(), 0.5, 0.4, -0.2, momentum=momentum) for momentum in (0.0, 0.9))
    for home in (first, second):
        FedRep(head_epochs=1).train(home, NO_TERMS)
    assert stands(first) == pytest.approx(stands(second))


def test_fedbabu_moves_the_body_alone() -> None:
    home = bench(Double(), 0.5, 0.4, -0.2, epochs=2, momentum=0.9)
    FedBABU().train(home, NO_TERMS)
    assert stands(home)[1:] == home.start.tolist()[1:]
    assert stands(home)[0] > 0.55


@pytest.mark.parametrize(("tunes", "moved"), [("all", {0, 1, 2}), ("head", {1, 2}), ("body", {0})])
def test_fedbabu_is_fine_tuned_before_it_is_used(tunes: str, moved: set[int]) -> None:
    home = bench(Double(), 0.5, 0.4, -0.2)
    FedBABU(tune_epochs=2, tunes=tunes).predict(home)
    assert {
        place for place, value in enumerate(stands(home)) if value != pytest.approx((0.5, 0.4, -0.2)[place])
    } == moved
    assert home.kept == {}


def test_fine_tuning_takes_its_epochs_at_its_rate() -> None:
    home = bench(Single(), 0.2, -0.1, momentum=0.9)
    FineTune(tune_epochs=2, tune_lr=0.1).predict(home)
    first = slope((0.2, -0.1))
    after = step((0.2, -0.1), first, 0.1)
    second = slope(after)
    momentum = (0.9 * first[0] + second[0], 0.9 * first[1] + second[1])
    assert stands(home) == pytest.approx(step(after, momentum, 0.1))
    usual = bench(Single(), 0.2, -0.1, lr=0.5)
    FineTune(tune_epochs=1).predict(usual)
    assert stands(usual) == pytest.approx(step((0.2, -0.1), first, 0.5)), "the round's rate, where nothing is said"


def test_only_the_head_costs_a_way_back() -> None:
    """The body's gradient is not computed while the head alone is trained."""
    home = bench(Double(), 0.5, 0.4, -0.2)
    visited = []
    home.module.body.weight.register_hook(visited.append)
    home.fit(1, step_scale=home.mask(frozenset({"head.weight"})))
    assert visited == []
    home.fit(1)
    assert len(visited) == 1
