"""Whole numbers that nobody means are refused before anything is read, built or allocated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.problems import refuses_with

from fedlens.build.load import load
from fedlens.config.blocks import FAMILIES
from fedlens.config.keys import properties, sections
from fedlens.config.schema import Config
from fedlens.config.site import SiteConfig, load_site

ABSURD = 10**20


def takes_integers(node) -> bool:
    """Any of them: a few that are listed bound themselves."""
    options = (node, *node.get("anyOf", ()))
    return any(option.get("type") == "integer" and "enum" not in option for option in options)


def keys(model) -> Iterator[str]:
    for at, section in sections(model):
        yield from (f"{at}.{name}".lstrip(".") for name, node in properties(section).items() if takes_integers(node))


def block_keys() -> Iterator[tuple[str, str]]:
    """(key, what chooses the block that it belongs to)."""
    for family in FAMILIES.values():
        for entry in family.registry.entries():
            for name, node in entry.properties.items():
                if name not in family.own and takes_integers(node):
                    yield f"{family.section}.{name}", f"{family.section}.{family.key}={entry.name}"


@contextmanager
def beyond(key: str) -> Iterator[None]:
    with refuses_with("out_of_range", f"{key} = {ABSURD}: must be a whole number") as caught:
        yield
    assert " to " in str(caught.value) or " below " in str(caught.value)


@pytest.mark.parametrize(("key", "choice"), [*((key, None) for key in keys(Config)), *block_keys()])
def test_every_key_has_an_upper_bound(key: str, choice: str | None) -> None:
    with beyond(key):
        load(None, [*([choice] if choice else []), f"{key}={ABSURD}"])


@pytest.mark.parametrize("key", list(keys(SiteConfig)))
def test_every_key_of_a_site_has_an_upper_bound(tmp_path, key: str) -> None:
    with beyond(key):
        load_site(None, [f"data_dir={tmp_path}", f"{key}={ABSURD}"])


def test_the_looks_find_keys() -> None:
    assert {"federated.batch_size", "data.partition.clients", "model.freeze"} <= set(keys(Config))
    assert ("attack.patch", "attack.name=scale") in set(block_keys())
    assert "allow.max_message_mb" in set(keys(SiteConfig))
