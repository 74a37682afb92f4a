"""Contradictions between keys that are each valid by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fedlens.config import problems
from fedlens.config.blocks import AUTO, SCHEME, find
from fedlens.config.schema import Config
from fedlens.errors import Problem


def contradictions(config: Config, where: Callable[[str], str]) -> Iterator[Problem]:
    """Contradictions between keys that are each valid by themselves."""
    if config.memory.precision == "fp16" and config.runtime.device == "cpu":
        key = "memory.precision"
        text = "needs a GPU, but runtime.device is cpu; use bf16 or fp32"
        yield problems.problem("contradiction", key, text, "fp16", where(key))
    held_out = config.data.validation + config.data.client_test
    if held_out >= 1:
        key = "data.validation"
        text = f"with data.client_test = {config.data.client_test:g} it leaves no images to train on"
        yield problems.problem("contradiction", key, text, config.data.validation, where(key))
    yield from _transfer(config, where)
    yield from _overlap(config, where)


def _transfer(config: Config, where: Callable[[str], str]) -> Iterator[Problem]:
    model, transfer, lora = config.model, config.transfer, config.model.lora
    if lora.rank and model.freeze != "none":
        text = "model.lora.rank freezes the backbone by itself, and trains adapters in it; use model.freeze=none"
        key = "model.freeze"
        yield problems.problem("contradiction", key, text, model.freeze, where(key))
    if transfer.unfreeze_every and transfer.probe_rounds:
        key = "transfer.probe_rounds"
        text = f"transfer.unfreeze_every = {transfer.unfreeze_every} begins with the head by itself; use one of the two"
        yield problems.problem("contradiction", key, text, transfer.probe_rounds, where(key))


def _overlap(config: Config, where: Callable[[str], str]) -> Iterator[Problem]:
    """What counts on every image being at one client."""
    scheme, lost = config.data.partition.scheme, config.data.modalities
    if scheme == AUTO or not find(SCHEME, scheme).factory.overlaps:
        return
    key, reasons = "data.partition.scheme", []
    if config.privacy.mode == "example":
        reasons += ["privacy.mode=example claims ε for an image at one client, and here several clients tell of it"]
    if lost.image_only or lost.text_only:
        reasons += ["data.modalities takes them from one client, and here others hold the same rows"]
    for reason in reasons:
        yield problems.problem("contradiction", key, f"{reason}; use another scheme", scheme, where(key))
