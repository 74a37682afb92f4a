"""Named building blocks: strategies, personalisations, rules of aggregation, models, data sources and others.

A block is one file in its family's package (or a user's plugin) holding a frozen dataclass whose fields are
its own configuration keys. The decorator is all that it takes: validation, the JSON schema, the command
line's lists, the docs' tables and the contract tests read the registry.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

from fedlens.core.words import nearest
from fedlens.errors import ConfigError

T = TypeVar("T")
Given_contra = TypeVar("Given_contra", contravariant=True)


class Checked(Protocol[Given_contra]):
    """A block that says whether it can work with what it is given: a rule with a cohort, a strategy with a model."""

    def incompatibility(self, given: Given_contra, /) -> str | None:
        """Why it cannot: a line that starts with the block's key at fault ("f = 4: …"); None if it can."""
        ...


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered block.

    summary       one line: what it is for
    suffix_field  the field that the name sets after a colon, as in timm:<architecture>; "" where there is none
    implied       the parameters that the name has set, where the entry was looked up by such a name
    """

    name: str
    summary: str
    factory: type[T]
    suffix_field: str = ""
    implied: Mapping[str, str] = field(default_factory=dict)

    def build(self, parameters: Mapping[str, Any]) -> T:
        """Validate `parameters` against the dataclass' typed fields and make the block.

        Raises:
            pydantic.ValidationError: a field is unknown, missing or out of range.
        """
        return self.adapter.validate_python({**parameters, **self.implied})

    @cached_property
    def adapter(self) -> TypeAdapter[T]:
        """Made once: pydantic takes milliseconds for one, and every configuration asks all blocks for their fields."""
        return TypeAdapter(self.factory)

    @cached_property
    def properties(self) -> Mapping[str, Any]:
        """JSON schema of each field; empty where a plugin's types have none."""
        try:
            properties: dict[str, Any] = self.adapter.json_schema().get("properties", {})
        except (PydanticSchemaGenerationError, PydanticUserError):
            return {}
        return properties


class Registry(Generic[T]):
    """The blocks of one family, found by importing every module of `package` when first asked."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, Entry[T]] = {}
        self._discovered = False

    def register(self, name: str, summary: str, *, suffix_field: str = "") -> Callable[[type[T]], type[T]]:
        """Class decorator that adds a frozen dataclass under `name`. `suffix_field`: see `Entry`.

        Raises:
            ConfigError: the name is taken by another class.
        """

        def decorate(factory: type[T]) -> type[T]:
            if not is_dataclass(factory):
                raise TypeError(f"{factory.__name__} must be a dataclass: its fields are its configuration keys")
            if not factory.__module__.startswith(f"{self._package}."):
                self._discover()  # so that a plugin cannot take a built-in name before the package is imported
            known = self._entries.get(name)
            if known is not None and origin(known.factory) != origin(factory):  # the same: a plugin that changed
                both = f"{origin(known.factory)} and {origin(factory)}"
                raise ConfigError(
                    f"{self.kind} {name!r} is registered twice, by {both}: give yours another name",
                    code="duplicate",
                    key=name,
                )
            factory.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[attr-defined]
            self._entries[name] = Entry(name, summary, factory, suffix_field)
            return factory

        return decorate

    def entries(self) -> list[Entry[T]]:
        """All blocks, by name."""
        self._discover()
        return [self._entries[name] for name in sorted(self._entries)]

    def names(self) -> list[str]:
        return [entry.name for entry in self.entries()]

    def find(self, name: str) -> Entry[T] | None:
        """The block called `name` ("resnet18", "timm:resnet26"), if there is one."""
        self._discover()
        plain, colon, suffix = name.partition(":")
        entry = self._entries.get(plain)
        if entry is None or not colon:
            return entry
        return replace(entry, implied={entry.suffix_field: suffix}) if entry.suffix_field else None

    def get(self, name: str) -> Entry[T]:
        """The block called `name`, as `find`.

        Raises:
            ConfigError: there is none; the message gives the nearest spelling and all names.
        """
        entry = self.find(name)
        if entry is None:
            raise ConfigError(unknown(self.kind, name, self.names()), code="unknown_name", key=name)
        return entry

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")


def origin(factory: type[object]) -> str:
    """Module and qualified name of a class."""
    return f"{factory.__module__}.{factory.__qualname__}"


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The one line for a misspelt name: what is wrong, the nearest spelling, what is allowed."""
    known = list(known)
    near = nearest(name, known)
    hint = f" Did you mean {near!r}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}"
