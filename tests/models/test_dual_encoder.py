"""Dual encoders: losses as in the papers, classes by their texts, and what each modality teaches which tower."""

from __future__ import annotations

import math

import pytest
import torch
from tests.models.test_fusion import inputs
from torch import Tensor
from torch.nn import functional as F

from fedlens.errors import ModelError
from fedlens.models.base import ModelRequest, classes_and_features
from fedlens.models.build import build_model
from fedlens.models.dual_encoder import (
    LARGEST_SCALE,
    DualEncoder,
    DualEncoderBuilder,
    as_dual_encoder,
    info_nce,
    pairwise_sigmoid,
)
from fedlens.models.lenet import LeNet
from fedlens.strategies.base import LocalTerms
from fedlens.training.flat import FlatModel
from fedlens.training.loop import LocalLoop
from fedlens.training.settings import LocalSettings

NAMES = ("boot", "striped shirt", "包")
REQUEST = ModelRequest(num_classes=3, image_size=28, image_channels=1, class_names=NAMES)
LABELS = torch.tensor([0, 1, 2, 0])


def built(request: ModelRequest = REQUEST, **keys: object) -> DualEncoder:
    model = build_model(DualEncoderBuilder(width=16, max_tokens=12, **keys), request, seed=3)  # type: ignore[arg-type]
    assert isinstance(model, DualEncoder)
    return model.eval()


def loss_of(model: DualEncoder, batch: Tensor, labels: Tensor = LABELS) -> Tensor:
    return model.objective(batch, labels[: len(batch)], F.cross_entropy)[1]


def moved(model: DualEncoder, batch: Tensor) -> set[str]:
    """The towers that learn from a batch."""
    model.zero_grad()
    loss_of(model, batch).backward()
    names = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    return {part for part in ("image", "text") if any(name.startswith(f"backbone.{part}.") for name in names)}


def test_infonce_is_the_mean_over_both_directions() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    by_image = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-2))) / 2
    by_text = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))) / 2
    assert info_nce(logits).item() == pytest.approx((by_image + by_text) / 2)
    assert info_nce(torch.tensor([[5.0]])).item() == 0


def test_the_sigmoid_loss_judges_every_pair_by_itself() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    judged = [math.log(1 + math.exp(-z)) for z in (2.0, 1.0, -0.5, 3.0)]
    assert pairwise_sigmoid(logits).item() == pytest.approx(sum(judged) / 2)


@pytest.mark.parametrize(("loss", "scale", "bias"), [("infonce", 1 / 0.07, 0.0), ("siglip", 10.0, -10.0)])
def test_the_first_scale_and_bias_are_the_papers(loss: str, scale: float, bias: float) -> None:
    head = built(pair_loss=loss).head
    one = torch.tensor([[1.0, 0.0]])
    assert head(one, one).item() == pytest.approx(scale + bias, rel=1e-5)


def test_the_scale_ends_at_a_hundred() -> None:
    head = built().head
    with torch.no_grad():
        head.scale.fill_(LARGEST_SCALE + 2)
    one = torch.tensor([[1.0, 0.0]])
    assert head(one, one).item() == pytest.approx(100, rel=1e-5)


def test_a_class_is_recognised_by_its_text() -> None:
    """The text of a class, as a row, is most like that class; with another order of names it is that name still."""
    model = built()
    assert model.text_reader is not None
    texts = model.text_reader.read([f"a photo of {name}" for name in NAMES], lambda _done, _all: None)
    batch = inputs([[False, True]] * 3)
    batch["text"] = texts
    assert model(batch).argmax(1).tolist() == [0, 1, 2]
    before = model(batch)
    model.recognize([*reversed(NAMES), "a lamp"])
    after = model(batch)
    torch.testing.assert_close(after[:, :3], before.flip(1))
    assert after.shape == (3, 4)


def test_names_of_classes_are_no_part_of_the_weights() -> None:
    other = built(ModelRequest(5, 28, 1, class_names=("a", "b", "c", "d", "e")))
    other.load_state_dict(built().state_dict(), strict=True)


def test_what_a_row_lacks_has_no_part_in_its_logits() -> None:
    model = built()
    batch, others = inputs([[True, False], [False, True]]), inputs([[True, True]] * 2, seed=1)
    before = model(batch)
    batch["text"][0], batch["image"][1] = others["text"][0], others["image"][1]
    torch.testing.assert_close(model(batch), before)
    torch.testing.assert_close(model(batch["image"][:1]), before[:1])


@pytest.mark.parametrize("learns", ["labels", "both"])
def test_a_tower_learns_from_its_own_modality_alone(learns: str) -> None:
    model = built(learns=learns)
    assert moved(model, inputs([[True, False]] * 4)) == {"image"}
    assert moved(model, inputs([[False, True]] * 4)) == {"text"}
    assert moved(model, inputs([[True, True]] * 4)) == {"image", "text"}


def test_pairs_teach_both_towers_without_labels() -> None:
    model, batch = built(learns="pairs"), inputs([[True, True]] * 4)
    assert moved(model, batch) == {"image", "text"}
    assert loss_of(model, batch).item() == loss_of(model, batch, LABELS.flip(0)).item()


def test_rows_without_a_pair_leave_the_loss_of_pairs_at_zero() -> None:
    model = built(learns="pairs")
    loss = loss_of(model, inputs([[True, False], [False, True]]))
    loss.backward()
    assert loss.item() == 0
    alone = loss_of(built(learns="both"), inputs([[True, False], [False, True]]))
    torch.testing.assert_close(alone, loss_of(built(learns="labels"), inputs([[True, False], [False, True]])))


def test_both_is_the_sum() -> None:
    batch = inputs([[True, True], [True, True], [True, False], [False, True]])
    pairs, labels, both = (loss_of(built(learns=learns), batch) for learns in ("pairs", "labels", "both"))
    torch.testing.assert_close(both, pairs + labels)


def test_the_label_loss_compares_images_and_texts_with_the_prompts() -> None:
    model, batch = built(learns="labels"), inputs([[True, True], [True, False]])
    classes = model.class_features()
    image, text, _ = model.backbone.apart(batch)
    expected = F.cross_entropy(
        torch.stack([model.head(image, classes)[0], model.head(image, classes)[1], model.head(text, classes)[0]]),
        torch.tensor([0, 1, 0]),
    )
    torch.testing.assert_close(loss_of(model, batch), expected)


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (DualEncoderBuilder(prompt="a photo"), "write {} once"),
        (DualEncoderBuilder(prompt="{} and {}"), "write {} once"),
        (DualEncoderBuilder(image="fusion"), "takes texts itself"),
        (DualEncoderBuilder(image="dual_encoder"), "takes texts itself"),
    ],
)
def test_what_cannot_be_built_is_said_first(builder: DualEncoderBuilder, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        builder.check()


def test_too_many_classes_are_refused() -> None:
    with pytest.raises(ModelError, match="100,000: at most 10,000"):
        DualEncoderBuilder().build(ModelRequest(100_000, 28, 1))


def test_other_models_do_not_take_names_for_classes() -> None:
    model = build_model(LeNet(), ModelRequest(3, 28, 1))
    with pytest.raises(ModelError, match=r"^--classes: .*model.name=dual_encoder"):
        as_dual_encoder(model, "--classes")


def test_a_term_on_the_features_reaches_both_towers() -> None:
    """It is given what the backbone makes of the batch, and its gradient adds to that of the objective."""
    model = FlatModel(built(), torch.device("cpu"))
    batch, seen = inputs([[True, True], [True, False], [False, True]]), []

    def term(given: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        seen.append((given, features, labels))
        return features[:, 0].sum()

    gradients = []
    for terms in (LocalTerms(), LocalTerms(features=term)):
        LocalLoop(model, LocalSettings(), terms).differentiate(batch, LABELS[:3], torch.Generator())
        gradients.append(model.gradient.clone())
    ((given, features, labels),) = seen
    assert given is batch
    assert torch.equal(labels, LABELS[:3])
    model.module.eval()
    backbone = dict(model.module.backbone.named_parameters(prefix="backbone"))
    made = model.module.backbone(batch)
    assert features.shape == made.shape == (3, 16)
    assert classes_and_features(model.module) == (3, 16)
    expected = torch.autograd.grad(made[:, 0].sum(), list(backbone.values()), allow_unused=True)
    pulled = model.unflatten(gradients[1] - gradients[0])
    for name, value in zip(backbone, expected, strict=True):
        assert (value is not None and bool(value.any())) == bool(pulled[name].abs().max() > 1e-7), name
