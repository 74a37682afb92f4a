"""Dual encoders: losses as in the papers, classes by their texts, and what each modality teaches which tower."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.models.test_fusion import inputs
from torch import Tensor, nn
from torch.nn import functional as F

from fedlens.build.load import load
from fedlens.core.types import part_of
from fedlens.errors import ConfigError, ModelError
from fedlens.models.base import ModelRequest, classes_and_features
from fedlens.models.build import build_model
from fedlens.models.dual_encoder import (
    LARGEST_SCALE,
    DualEncoder,
    DualEncoderBuilder,
    TextTower,
    as_dual_encoder,
)
from fedlens.models.fedclip import AttentionAdapter
from fedlens.models.lenet import LeNet
from fedlens.models.pair_losses import info_nce, pairwise_sigmoid
from fedlens.models.promptfl import VECTORS
from fedlens.models.text_readers import PADDING, Tokens
from fedlens.strategies.base import LocalTerms
from fedlens.training.flat import FlatModel
from fedlens.training.loop import LocalLoop
from fedlens.training.settings import LocalSettings

NAMES = ("boot", "striped shirt", "包")
REQUEST = ModelRequest(num_classes=3, image_size=28, image_channels=1, class_names=NAMES)
LABELS = torch.tensor([0, 1, 2, 0])


def built(request: ModelRequest = REQUEST, **keys: object) -> DualEncoder:
    keys = {"width": 16, "max_tokens": 12, **keys}
    model = build_model(DualEncoderBuilder(**keys), request, seed=3)  # type: ignore[arg-type]
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
    found = head(one, one)
    assert found.item() == pytest.approx(100, rel=1e-5)
    found.backward()
    assert head.scale.grad is not None and head.scale.grad.item() > 0  # so that it can come back


def test_similarities_are_computed_in_full_precision() -> None:
    head = built().head
    one, other = torch.rand(2, 3, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(one, other), head(one, other).float())
        within = head(one, other)
    torch.testing.assert_close(within, head(one, other))


def test_a_class_is_recognised_by_its_text() -> None:
    """The text of a class, as a row, is most like that class; with another order of names it is that name still."""
    model = built()
    assert model.text_reader is not None
    texts = model.text_reader.read([f"a photo of {name}" for name in NAMES], lambda _done, _all: None)
    batch = inputs([[False, True]] * 3)
    batch["text"] = texts
    assert model(batch).argmax(1).tolist() == [0, 1, 2]
    before = model(batch)
    model.class_inputs = model.read_classes([*reversed(NAMES), "a lamp"])
    after = model(batch)
    torch.testing.assert_close(after[:, :3], before.flip(1))
    assert after.shape == (3, 4)


def test_the_features_of_a_text_are_its_own() -> None:
    """Without the prompt: those of a class are the features of its prompt as a text."""
    model = built()
    found = torch.stack([model.features_of(f"a photo of {name}") for name in NAMES])
    torch.testing.assert_close(found, model.class_features())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_other_classes_leave_the_model_as_it_is() -> None:
    model, batch = built(), inputs([[True, True], [True, False], [False, True]])
    before = model(batch)
    other = model.with_classes([*reversed(NAMES), "a lamp"])
    torch.testing.assert_close(other(batch)[:, :3], before.flip(1))
    torch.testing.assert_close(model(batch), before)
    assert not other.training
    torch.testing.assert_close(model.encoder()(batch), model.backbone(batch))


def test_names_that_are_cut_to_the_same_words_are_refused() -> None:
    with pytest.raises(ModelError, match=r"'boot' and 'striped shirt' are one to this model.*model.max_tokens"):
        built(max_tokens=2, prompt="the photo of one {}")
    with pytest.raises(ModelError, match="'a b' and 'a b c' are one"):
        built(max_tokens=2, prompt="{}").with_classes(["x y", "a b", "a b c"])


def test_a_name_that_is_not_read_to_its_end_is_named() -> None:
    model, long = built(max_tokens=6), "a striped shirt of cotton"
    assert model.note_of_cut(["boot", "bag"]) == ""
    note = model.note_of_cut(["boot", long, f"{long} and wool"])
    assert note.startswith(f"class {long!r} and 1 other: the end is not read")
    assert note.endswith("train with a larger model.max_tokens")
    assert built(max_tokens=12).note_of_cut([long]) == ""


def test_what_is_read_of_a_text_ends_at_the_last_place() -> None:
    words, length = "a b c d e f", 6
    tokens = Tokens(length)
    assert tokens.read([words], lambda _done, _all: None)[0, -1] != PADDING
    assert tokens.cut([words, f"{words} g", ""]) == [False, True, False]
    assert tokens.cut([words, "a b c d"], taken=2) == [True, False]


def test_there_are_as_many_classes_as_outputs() -> None:
    model = built(ModelRequest(2, 28, 1, class_names=("a", "b", "c", "d")))
    assert len(model.class_inputs) == 2


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


def tuned(tune: str, folder: Path) -> tuple[DualEncoder, DualEncoder]:
    """A trained model, and the same with a part that is tuned."""
    trained = built(max_tokens=24)
    save_file(trained.state_dict(), folder / "trained.safetensors")
    request = replace(REQUEST, weights=folder / "trained.safetensors")
    return trained, built(request, max_tokens=24, tune=tune)


@pytest.mark.parametrize(("tune", "part"), [("prompt", "head.context."), ("adapter", "backbone.adapter.")])
def test_tuning_trains_and_sends_its_part_alone(tune: str, part: str, tmp_path: Path) -> None:
    trained, model = tuned(tune, tmp_path)
    resident = FlatModel(model.train(), torch.device("cpu"))
    assert resident.names == resident.trainable == {name for name in model.state_dict() if name.startswith(part)}
    assert resident.names
    assert {name: value for name, value in model.state_dict().items() if name not in resident.names}.keys() == set(
        trained.state_dict()
    )
    loss_of(model, inputs([[True, False]] * 4, length=24)).backward()
    assert resident.gradient.abs().sum() > 0
    assert not model.backbone.image[0].training


def test_a_locked_text_tower_stays_as_it_is() -> None:
    model = built(lock_text=True)
    assert moved(model, inputs([[True, True]] * 4)) == {"image"}
    assert not model.train().backbone.text.training


def test_features_of_a_sentence_encoder_are_only_turned() -> None:
    """With room for all of them, they are as like each other as before."""
    tower = TextTower(nn.Identity(), 6, 8)
    texts = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tower(texts) @ tower(texts).T, texts @ texts.T)


def test_an_adapter_begins_with_the_trained_model(tmp_path: Path) -> None:
    trained, model = tuned("adapter", tmp_path)
    batch = inputs([[True, False], [True, True], [False, True]], length=24)
    torch.testing.assert_close(model(batch), trained(batch))


def test_an_adapter_learns_from_images_alone(tmp_path: Path) -> None:
    _, model = tuned("adapter", tmp_path)
    assert part_of("backbone.adapter.attention.0.weight", model.parts) == "backbone.adapter"
    assert model.parts["backbone.adapter"] == "image"
    assert moved(model, inputs([[False, True]] * 4, length=24)) == set()


def test_an_adapter_by_hand() -> None:
    adapter = AttentionAdapter(2)
    with torch.no_grad():
        first, _, last, _ = adapter.attention
        first.weight.copy_(torch.eye(2))
        first.bias.zero_()
        last.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    share = math.exp(math.tanh(2.0)) / (math.exp(math.tanh(2.0)) + 1)
    assert adapter(torch.tensor([[2.0, 5.0]]))[0].tolist() == pytest.approx([2 * share, 5 * (1 - share)])


def test_a_context_stands_before_the_words_of_each_class(tmp_path: Path) -> None:
    _, model = tuned("prompt", tmp_path)
    context, network = model.head.context, model.backbone.text.network
    assert context is not None
    words = network.tokens(model.class_inputs[:1])
    assert context.before(words)[0, :VECTORS].equal(context.vectors)
    assert context.before(words)[0, VECTORS:].equal(words[0])
    before = model.class_features()
    with torch.no_grad():
        context.vectors[0] += 1
    assert not torch.allclose(model.class_features(), before)


def test_texts_are_cut_to_the_places_that_a_context_leaves(tmp_path: Path) -> None:
    _, model = tuned("prompt", tmp_path)
    (long,) = model.backbone.of_texts(model.read_classes(["word " * 40]), model.head.context)
    (longer,) = model.backbone.of_texts(model.read_classes(["word " * 50]), model.head.context)
    torch.testing.assert_close(long, longer)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text": "minilm"}, "this text tower does not show"),
        ({"max_tokens": VECTORS}, "model.max_tokens=16 leaves no place"),
    ],
)
def test_a_prompt_needs_words_and_place(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        DualEncoderBuilder(tune="prompt", **keys).check()  # type: ignore[arg-type]


def test_there_must_be_a_trained_model_to_tune() -> None:
    with pytest.raises(ConfigError, match=r"model.tune = 'prompt'.*model.weights="):
        load(None, ["model.name=dual_encoder", "model.tune=prompt"])
    with pytest.raises(ConfigError, match=r"model.learns = 'pairs'.*learns from labels"):
        load(None, ["model.name=dual_encoder", "model.tune=prompt", "model.weights=a.pth", "model.learns=pairs"])


@pytest.mark.parametrize("loss", ["infonce", "siglip"])
def test_the_training_loss_that_is_told_is_the_cross_entropy(loss: str) -> None:
    """So that it can be compared with guessing, and with the loss on images held out."""
    model, batch = built(pair_loss=loss), inputs([[True, True]] * 4)
    told = LocalLoop(FlatModel(model, torch.device("cpu")), LocalSettings(), LocalTerms())
    told.differentiate(batch, LABELS, torch.Generator())
    expected = F.cross_entropy(model.eval()(batch), LABELS).item()
    assert told.metrics()["loss"].value == pytest.approx(expected, abs=0.2)  # dropout draws in training


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
