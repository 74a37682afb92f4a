"""OpenCLIP's dual encoders: features, logits, losses and tokens are open_clip's; weights from files and servers."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip.model import CLIP, CustomTextCLIP, resize_pos_embed
from safetensors.torch import save_file
from tests.models.test_weights import NOWHERE, cache, server  # noqa: F401
from torch.nn import functional as F

from fedlens.cli.models import fetch
from fedlens.errors import ModelError
from fedlens.models.artefact import load_model, save_model
from fedlens.models.base import ModelRequest, beside_texts
from fedlens.models.build import build_model, builder_named
from fedlens.models.checkpointing import enable_gradient_checkpointing
from fedlens.models.description import ModelDescription
from fedlens.models.dual_encoder import DualEncoder
from fedlens.models.open_clip_models import OpenClip
from fedlens.models.pair_losses import info_nce, pairwise_sigmoid
from fedlens.models.text_readers import ClipTokens

NAMES = ("boot", "striped shirt", "包")
REQUEST = ModelRequest(num_classes=3, image_size=32, image_channels=1, class_names=NAMES)
TEXTS = ("a boot of leather &amp; wool", "", "红色条纹衬衫", "👢 é <end_of_text>", "word " * 50)
VIT = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 16, "head_width": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """Small architectures beside OpenCLIP's own, and their published weights: name → tag → where they are."""
    configs = {
        name: {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
        for name, vision, text in (
            ("tiny", VIT, TEXT),
            ("tiny-resnet", RESNET, TEXT),
            ("tiny-siglip", VIT, {**TEXT, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}),
        )
    }
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", {**open_clip.factory._MODEL_CONFIGS, **configs})
    published: dict[str, dict[str, object]] = {}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", published)
    return published


def clip(**more: object) -> CLIP:
    """open_clip's own network of the architecture `tiny`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return CLIP(16, dict(VIT), dict(TEXT), **more).eval()


def built(request: ModelRequest = REQUEST, **keys: object) -> DualEncoder:
    model = build_model(OpenClip(**{"architecture": "tiny", **keys}), request, seed=3)  # type: ignore[arg-type]
    assert isinstance(model, DualEncoder)
    return model.eval()


def from_file(file: Path, side: int = 32, **keys: object) -> DualEncoder:
    return built(ModelRequest(3, side, 3, weights=file, class_names=NAMES), **keys)


def saved(network: torch.nn.Module, file: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)
    return file


def images(side: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def same(model: DualEncoder, network: CLIP | CustomTextCLIP) -> None:
    """Features and logits of `model` are those of `network`."""
    tokens = open_clip.tokenize([f"a photo of {name}" for name in NAMES], context_length=12)
    with torch.inference_mode():
        torch.testing.assert_close(model.backbone(images()), network.encode_image(images(), normalize=True))
        torch.testing.assert_close(model.class_features(), network.encode_text(tokens, normalize=True))
        torch.testing.assert_close(model(images()), network.get_logits(images(), tokens)[0])


def test_a_file_with_open_clips_names_gives_open_clips_logits(tiny, tmp_path: Path) -> None:
    network = clip()
    with torch.no_grad():
        network.logit_scale.fill_(3.0)
    same(from_file(saved(network, tmp_path / "a.safetensors")), network)


def test_a_checkpoint_of_its_training_with_a_bias_and_a_tower_for_texts(tiny, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        network = CustomTextCLIP(16, dict(VIT), dict(TEXT), init_logit_bias=-7.0, nonscalar_logit_scale=True).eval()
    tensors = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 3, "name": "x", "state_dict": tensors}, tmp_path / "epoch_3.pt")
    same(from_file(tmp_path / "epoch_3.pt"), network)


def test_weights_for_other_sizes_have_their_places_resampled_as_in_open_clip(tiny, tmp_path: Path) -> None:
    network = clip()
    model = from_file(saved(network, tmp_path / "a.safetensors"), side=60)
    wide = CLIP(16, {**VIT, "image_size": 64}, dict(TEXT))
    tensors = network.state_dict()
    resize_pos_embed(tensors, wide)
    wide.load_state_dict(tensors)
    with torch.inference_mode():
        framed = F.pad(images(60), (2, 2, 2, 2))  # 60 pixels do not fill the patches
        torch.testing.assert_close(model.backbone(images(60)), wide.eval().encode_image(framed, normalize=True))


def test_a_residual_network_takes_other_sizes(tiny, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        network = CLIP(16, dict(RESNET), dict(TEXT))
    file = saved(network, tmp_path / "a.safetensors")
    assert from_file(file, side=28, architecture="tiny-resnet")(images(28)).shape == (2, 3)


def test_a_file_of_another_architecture_is_refused(tiny, tmp_path: Path) -> None:
    file = saved(CLIP(16, {**VIT, "width": 8}, {**TEXT, "context_length": 17}), tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"a.safetensors does not fit the model: other shapes: .*positional_embedding"):
        from_file(file)


def test_losses_are_open_clips() -> None:
    draw = torch.Generator().manual_seed(1)
    image, text = (F.normalize(torch.randn(7, 5, generator=draw), dim=1) for _ in range(2))
    scale, bias = torch.tensor(9.0), torch.tensor(-4.0)
    logits = scale * image @ text.T
    torch.testing.assert_close(info_nce(logits), ClipLoss()(image, text, scale))
    torch.testing.assert_close(pairwise_sigmoid(logits + bias), SigLipLoss()(image, text, scale, bias))


def test_tokens_are_open_clips() -> None:
    calls: list[tuple[int, int]] = []
    tokens = ClipTokens(12).read(TEXTS, lambda *done: calls.append(done))
    assert tokens.dtype == torch.int32
    assert torch.equal(tokens.long(), open_clip.tokenize(list(TEXTS), context_length=12))
    assert calls == [(5, 5)]
    assert ClipTokens(12).key != ClipTokens(13).key


def test_a_name_that_is_not_read_to_its_end_is_named_without_a_key(tiny) -> None:
    assert ClipTokens(6).cut(["a b c d", "a b c d e", "! ! ! ! !"]) == [False, True, True]
    note = built().note_of_cut(["boot", "boot and " * 80])
    assert note.startswith("class 'boot and")
    assert note.endswith("use shorter names or a shorter model.prompt")


def test_small_is_small_and_takes_grey_images() -> None:
    model = build_model(OpenClip(), ModelRequest(3, 28, 1, class_names=NAMES))
    embedding = model.backbone.text.token_embedding.weight.numel()
    assert 1e6 < sum(value.numel() for value in model.parameters()) - embedding < 3e6
    assert OpenClip().default_image_size == 28
    pixels = torch.randint(0, 255, (2, 28, 28, 1), dtype=torch.uint8)
    prepared = model.prepare(pixels)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    torch.testing.assert_close(prepared[0, :, 0, 0], (pixels[0, 0, 0] / 255 - mean) / std)


def test_checkpointed_blocks_give_the_same_gradients(tiny) -> None:
    batch = beside_texts(images(), ClipTokens(12).read(TEXTS[:2], lambda *_: None), torch.ones(2, 2, dtype=torch.bool))
    gradients = []
    for checkpointed in (False, True):
        model = built().train()
        if checkpointed:
            assert enable_gradient_checkpointing(model) == 2
        model.objective(batch, torch.tensor([0, 2]), F.cross_entropy)[1].backward()
        gradients.append([value.grad for value in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_a_saved_model_keeps_activation_and_colours_of_its_tag(tiny, tmp_path: Path) -> None:
    tiny["quick"] = open_clip.pretrained._slpcfg(quick_gelu=True)
    model = built(tag="quick")
    keys = {"architecture": "tiny", "tag": "quick"}
    save_model(tmp_path, model, ModelDescription("open_clip", 3, NAMES, 32, 3, keys))
    loaded, _ = load_model(tmp_path)
    assert isinstance(loaded, DualEncoder)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images()), model(images()))
        assert not torch.allclose(built()(images()), model(images()))
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)


def test_weights_of_a_release_are_downloaded_once_and_checked(tiny, server, cache) -> None:  # noqa: F811
    folder, base = server
    network = clip()
    torch.save(network.state_dict(), folder / "new.pt")
    digest = hashlib.sha256((folder / "new.pt").read_bytes()).hexdigest()
    file = (folder / "new.pt").rename(folder / f"tiny-{digest[:8]}.pt")
    tiny["release"] = open_clip.pretrained._pcfg(url=f"{base}/{file.name}", hf_hub="none/none/")
    pretrained = ModelRequest(3, 32, 3, pretrained=True, class_names=NAMES)

    same(built(pretrained, tag="release"), network)
    assert [path.name for path in cache.iterdir()] == [file.name]
    file.write_bytes(b"changed")
    same(built(pretrained, tag="release"), network)
    (cache / file.name).unlink()
    with pytest.raises(ModelError, match="came damaged or was changed"):
        built(pretrained, tag="release")


def on_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """`folder` in place of the Hub; the list fills with the files that were asked for."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    asked: list[str] = []

    def download(repository: str, name: str, *, revision: str | None, local_files_only: bool) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        asked.append(f"{repository}/{name}")
        if not (folder / name).exists():
            raise EntryNotFoundError("404")
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("fedlens.models.weights._probe", lambda url: None)
    return asked


def test_weights_on_the_hub(tiny, cache, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    network, asked = clip(), on_hub(monkeypatch, tmp_path)
    tiny["hub"] = open_clip.pretrained._pcfg(url="https://x/ViT-B-32.pt", hf_hub="some/clip/")
    torch.save(network.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    same(built(ModelRequest(3, 32, 3, pretrained=True, class_names=NAMES), tag="hub"), network)
    assert asked == ["some/clip/open_clip_model.safetensors", "some/clip/open_clip_pytorch_model.bin"]
    fetch("open_clip", ["architecture=tiny", "tag=hub"], tmp_path / "stick")
    assert (tmp_path / "stick" / "some--clip.weights").exists()


def test_without_a_network_the_error_names_the_ways_out(tiny, cache, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *_, **__: f"{NOWHERE}/x")
    tiny["hub"] = open_clip.pretrained._pcfg(hf_hub="some/clip/")
    with pytest.raises(ModelError, match="fedlens models fetch open_clip architecture=tiny tag=hub --to FOLDER"):
        built(ModelRequest(3, 32, 3, pretrained=True), tag="hub")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architecture": "ViT-B-23"}, "did you mean ViT-B-32"),
        ({"architecture": "tiny-siglip"}, "does not read texts with CLIP's own tokenizer"),
        ({"architecture": "coca_ViT-B-32"}, "does not read texts with CLIP's own tokenizer"),
        ({"architecture": "RN101", "tag": "opnai"}, "it has: openai, yfcc15m"),
        ({"tag": "openai"}, "no such weights of small; it has: none"),
        ({"prompt": "a photo"}, "write {} once"),
    ],
)
def test_what_cannot_be_built_is_said_first(tiny, keys: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        builder_named("open_clip", keys).check()


@pytest.mark.parametrize(
    ("architecture", "ways"), [("tiny", "needs model.tag .*: one, two"), ("small", "set model.pretrained=false")]
)
def test_pretrained_needs_a_tag(tiny, architecture: str, ways: str) -> None:
    tiny.update(one=open_clip.pretrained._pcfg(), two=open_clip.pretrained._pcfg())
    with pytest.raises(ModelError, match=ways):
        built(ModelRequest(3, 32, 3, pretrained=True), architecture=architecture)


def test_without_the_package(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for needs in (OpenClip().check, OpenClip().text_reader, lambda: ClipTokens(3).key):
        with pytest.raises(ModelError, match=r"pip install 'fedlens\[clip\]'"):
            needs()


def test_every_listed_architecture_is_built_or_refused_with_a_reason() -> None:
    """As open_clip describes it; on the meta device, so that nothing is computed."""
    described = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    for name, config in described.items():
        builder = OpenClip(architecture=name)
        own = "multimodal_cfg" in config or "hf_" in json.dumps(config["text_cfg"])
        if own:
            with pytest.raises(ModelError, match="own tokenizer"):
                builder.check()
        else:
            builder.check()
            assert builder.default_image_size >= 224
            assert builder.text_reader().length >= 16
