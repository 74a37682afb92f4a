"""Low-rank adapters: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen 2021, https://arxiv.org/abs/2106.09685,
section 4.1: h = W₀ x + (α / r) B A x with W₀ frozen, A initialised at random and B at zero. The layers are peft's.

By default every linear layer of the backbone gets one (as in Dettmers et al. 2023, https://arxiv.org/abs/2305.14314,
section 4). PyTorch's own `nn.MultiheadAttention`, in torchvision's ViT-B/16, is left out: it uses its projection
weights without calling their layers. peft handles this by adding the adapter to the frozen weights and subtracting it
again in every step, which changes them by rounding errors; the frozen part, which is never sent, would then differ
between processes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedlens.errors import ModelError
from fedlens.models.base import Recognizer
from fedlens.models.sections import LoraSection

ADAPTABLE = (nn.Linear, nn.Conv2d)


def add_lora(model: Recognizer, lora: LoraSection) -> None:
    """Freeze the backbone of `model`, and add adapters to its layers. The head is trained without adapters.

    Raises:
        ModelError: peft is not installed, or the model has no such layer.
    """
    names = _targets(model.backbone, lora.targets)
    peft = _peft()
    # peft declares alpha as int, but only divides it by the rank
    settings: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha or lora.rank, "lora_dropout": lora.dropout}
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=names, **settings), model.backbone)
    model.hold(module for module in model.backbone.modules() if isinstance(module, _NormBase))


def merged(model: nn.Module) -> nn.Module:
    """`model` with its adapters merged into the weights: a copy with the architecture's own names; `model` itself if it
    has none.

    Raises:
        ModelError: peft is not installed.
    """
    if not any(is_adapter(name) for name, _ in model.named_parameters()):
        return model
    plain = copy.deepcopy(model)
    layers = [(name, layer) for name, layer in plain.named_modules() if isinstance(layer, _peft_layer())]
    for name, layer in layers:
        layer.merge()
        plain.set_submodule(name, layer.get_base_layer())
    return plain


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def _targets(backbone: nn.Module, wanted: Sequence[str]) -> list[str]:
    """The names of the layers to adapt.

    Raises:
        ModelError: there is no such layer, or one cannot be adapted.
    """
    layers = dict(_layers(backbone))
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    if not wanted:
        if not linear:
            raise ModelError(
                "model.lora.rank: the backbone has no linear layer for adapters; name its convolutions: "
                f"model.lora.targets={_example(layers)}, or take model.name=vit"
            )
        return linear
    chosen: list[str] = []
    for target in wanted:
        found = [name for name in layers if name == target or name.endswith(f".{target}")]
        if not found:
            raise ModelError(
                f"model.lora.targets = {target!r}: no linear layer or convolution of the backbone ends in that name "
                f"(the projections of torch's MultiheadAttention cannot be adapted); use some of {_example(layers)}"
            )
        chosen.extend(found)
    return list(dict.fromkeys(chosen))


def _layers(module: nn.Module, at: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Linear layers and convolutions by name, without those inside `nn.MultiheadAttention`."""
    for name, child in module.named_children():
        if isinstance(child, ADAPTABLE):
            yield f"{at}{name}", child
        elif not isinstance(child, nn.MultiheadAttention):
            yield from _layers(child, f"{at}{name}.")


def _example(layers: dict[str, nn.Module]) -> str:
    """The layers' last name components, as a list to copy; a component that is a number keeps the one before it."""
    parts = (name.split(".") for name in layers)
    last = dict.fromkeys(".".join(part[-2:] if part[-1].isdigit() else part[-1:]) for part in parts)
    return f"[{','.join(last)}]"


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ModelError("model.lora.rank needs the package peft: pip install 'fedlens[lora]'") from error
    return peft


def _peft_layer() -> type[Any]:
    _peft()
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer: type[Any] = BaseTunerLayer
    return layer
