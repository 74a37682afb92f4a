"""What happens to keys without effect.

They are dropped if a later layer is the reason, or if a file sets them for the other use: one file serves `fedlens run`
and `fedlens server`. Otherwise they are mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedlens.config import problems
from fedlens.config.blocks import FAMILIES
from fedlens.config.idle import OWN_DATA, OWN_MODEL, Idle
from fedlens.config.keys import section_in, value_in
from fedlens.config.overrides import Layer
from fedlens.errors import Problem

_IN_CODE = {OWN_DATA: 1, OWN_MODEL: 1}
"""What a Python program passes is in the layer of its arguments, above the file."""


def settle(
    tree: dict[str, Any], idle: Iterable[Idle], layers: Sequence[Layer], *, saved: bool, note: Callable[[str], None]
) -> Iterator[Problem]:
    """Drop idle keys from `tree` if that is what the user means; yield a problem for each other one.

    layers  the lowest first; saved: all but the highest were saved by a run, and their idle keys are dropped
    note    called for the keys that a file sets for the other use
    """
    unused: list[str] = []

    def height(key: str) -> int:
        standing = (number for number, layer in enumerate(layers) if value_in(layer.tree, key) is not ...)
        return _IN_CODE[key] if key in _IN_CODE else max(standing, default=-1)

    for one in idle:
        at = height(one.key)
        if any(height(key) > at for key in one.because) or (saved and at < len(layers) - 1):
            _leave_out(tree, one.key)
            continue
        if one.other_use and at == 0:
            _leave_out(tree, one.key)
            unused.append(one.key)
            continue
        value = value_in(tree, one.key)
        shown = str(value) if isinstance(value, Path) else value
        yield problems.problem("idle_key", one.key, one.text, shown, layers[at].where(one.key))
    if unused:
        note(f"this command does not use {', '.join(unused)}: left out")


def _leave_out(tree: dict[str, Any], key: str) -> None:
    """Drop the key; if it names a block, its parameters too."""
    section, _, name = key.rpartition(".")
    inside, family = section_in(tree, section), FAMILIES.get(section)
    inside.pop(name, None)
    if family is not None and family.key == name:
        for parameter in inside.keys() - family.own:
            del inside[parameter]
