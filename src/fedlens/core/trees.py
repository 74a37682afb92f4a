"""Nested mappings, such as a configuration, and their dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"model": {"name": "lenet"}} → {"model.name": "lenet"}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found
