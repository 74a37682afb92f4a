"""Contradictions between keys, independent of the blocks that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fedlens.config import problems
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
