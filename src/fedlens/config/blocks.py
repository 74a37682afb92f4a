"""From a section that names a registered block (`strategy: {name: fedprox, mu: 0.1}`) to the block itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from fedlens.aggregation.base import AggregationRule, rules
from fedlens.attacks.base import Attack, attacks
from fedlens.clocks.base import LatencyModel, clocks
from fedlens.compression.base import compressions
from fedlens.config import problems
from fedlens.config.keys import schema_keys, text_key
from fedlens.config.schema import (
    AggregationSection,
    AttackSection,
    ClockSection,
    CompressionSection,
    Config,
    DataSection,
    ModelSection,
    PartitionSection,
    PersonalizationSection,
    PrivacySection,
    ScheduleSection,
    StrategySection,
)
from fedlens.core.registry import Entry, Registry
from fedlens.core.section import BlockSection
from fedlens.core.words import nearest
from fedlens.data.base import Scheme, Source, schemes, sources
from fedlens.errors import Code, ConfigError, FedLensError, Problem
from fedlens.models.base import ModelBuilder, models
from fedlens.personalization.base import Personalization, personalizations
from fedlens.privacy.base import PrivacyMode, privacy_modes
from fedlens.schedules.base import Schedule, schedules
from fedlens.strategies.base import Strategy, strategies
from fedlens.training.optimizers.base import Optimizer, optimizers
from fedlens.training.sections import OptimizerSection
from fedlens.transforms.base import UpdateTransform

T = TypeVar("T")

AUTO = "auto"
"""Name that leaves the choice of a block to what the data turns out to be."""

PYTHON = "python"
"""Name of a source or a model that a Python program handed over (`fedlens.run(…, data=…, model=…)`)."""

FROM_PYTHON = f"{PYTHON}."
"""Begins the name of a strategy whose class a Python program has handed over."""

Where = Callable[[str], str]
"""Dotted key → where it stands, such as "config.yaml, line 3"; "" when that is not known."""


@dataclass(frozen=True)
class Family(Generic[T]):
    """A section that names a block. `key`: the key in it that holds the name; `model`: its own keys."""

    section: str
    key: str
    registry: Registry[T]
    model: type[BlockSection]

    @property
    def own(self) -> frozenset[str]:
        """The section's own keys, those that are not a block's."""
        return frozenset(self.model.model_fields)

    @property
    def default(self) -> str:
        """The name that counts when none is given."""
        return str(self.model.model_fields[self.key].default)

    def choose(self, section: BlockSection) -> T:
        """The block that a validated section names, with its parameters.

        Raises:
            ConfigError: unknown name, unknown parameter, bad value; one line for each.
        """
        name = str(getattr(section, self.key))
        given = {key: getattr(section, key) for key in self.own}
        return build_block(self.registry, self.section, name, self.parameters(name, given | section.parameters))

    def parameters(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the section's `given` keys that go to the block called `name`.

        A field of the block with the name of one of the section's own keys (`path`, `momentum`) gets the value of that
        key, which has the section's default.
        """
        shared = {
            key: given.get(key, self.model.model_fields[key].get_default(call_default_factory=True))
            for key in field_names(find(self, name))
            if key in self.own
        }
        parameters = {key: value for key, value in given.items() if key not in self.own}
        return parameters | {key: value for key, value in shared.items() if value is not None}


MODEL: Family[ModelBuilder] = Family("model", "name", models, ModelSection)
SOURCE: Family[Source] = Family("data", "source", sources, DataSection)
SCHEME: Family[Scheme] = Family("data.partition", "scheme", schemes, PartitionSection)
STRATEGY: Family[Strategy] = Family("strategy", "name", strategies, StrategySection)
PERSONALIZATION: Family[Personalization] = Family("personalization", "name", personalizations, PersonalizationSection)
AGGREGATION: Family[AggregationRule] = Family("aggregation", "name", rules, AggregationSection)
ATTACK: Family[Attack] = Family("attack", "name", attacks, AttackSection)
SCHEDULE: Family[Schedule] = Family("schedule", "name", schedules, ScheduleSection)
CLOCK: Family[LatencyModel] = Family("clock", "name", clocks, ClockSection)
COMPRESSION: Family[UpdateTransform] = Family("compression", "name", compressions, CompressionSection)
PRIVACY: Family[PrivacyMode] = Family("privacy", "mode", privacy_modes, PrivacySection)
OPTIMIZER: Family[Optimizer] = Family("optimizer", "name", optimizers, OptimizerSection)
ALGORITHM: tuple[Family[Any], ...] = (
    *(STRATEGY, PERSONALIZATION, AGGREGATION, COMPRESSION, PRIVACY, OPTIMIZER, SCHEDULE, CLOCK, ATTACK),
)
"""What a run computes, as against what it computes with."""
_MATERIAL: tuple[Family[Any], ...] = (MODEL, SOURCE, SCHEME)
FAMILIES: Mapping[str, Family[Any]] = {family.section: family for family in (*_MATERIAL, *ALGORITHM)}

_HANDED_OVER: Mapping[str, str] = {
    "data": "the run's images were given from Python, and are not kept with it; give them again, as "
    "fedlens.run(…, data=…) or fedlens.resume(…, data=…), or read a folder: data.source=auto data.path=FOLDER",
    "model": "the run's model was given from Python; give it again, as fedlens.run(…, model=…) or "
    "fedlens.resume(…, model=…), or use one that `fedlens models` lists",
    "strategy": "the run's strategy was given from Python; give it again, as fedlens.run(…, strategy=…) or "
    "fedlens.resume(…, strategy=…), or use one that `fedlens strategies` lists",
}
"""What to say of `PYTHON` where nothing was handed over."""


def find(family: Family[T], name: str, where: Where = lambda _: "") -> Entry[T]:
    """The entry called `name`.

    Raises:
        ConfigError: there is no such block, or it was handed over by a Python program.
    """
    entry = family.registry.find(name)
    if entry is None and family.section in _HANDED_OVER and (name == PYTHON or name.startswith(FROM_PYTHON)):
        key = f"{family.section}.{family.key}"
        raise ConfigError(problems.problem("missing", key, _HANDED_OVER[family.section], name, where(key)))
    if entry is None:
        known = family.registry.names()
        key = f"{family.section}.{family.key}"
        if others := [other for other in FAMILIES.values() if name in other.registry.names()]:
            text = " or ".join(f"is a {other.registry.kind}: {other.section}.{other.key}={name}" for other in others)
            raise ConfigError(problems.problem("unknown_name", key, text, name, where(key)))
        near = nearest(name, known)
        hint = f" Did you mean {near}?" if near else ""
        text = f"unknown {family.registry.kind}.{hint} Known: {', '.join(known)}"
        raise ConfigError(problems.problem("unknown_name", key, text, name, where(key)))
    return entry


def build_block(
    registry: Registry[T], section: str, name: str, parameters: Mapping[str, Any], where: Where = lambda _: ""
) -> T:
    """Make the block called `name` with the `parameters` given in `section` ("data.partition").

    Raises:
        ConfigError: an unknown name or parameter, or a bad value; one line for each.
    """
    family: Family[T] = Family(section, FAMILIES[section].key, registry, FAMILIES[section].model)
    entry = find(family, name, where)
    mistakes = problems.truth_values(entry.properties, parameters, section, where)
    try:
        block = entry.build(parameters)
    except ValidationError as error:
        mistakes |= _mistakes(entry, family, error, where)
    except FedLensError as error:
        mistakes[section] = problems.problem("invalid_value", section, str(error), where=where(section))
    if mistakes:
        raise ConfigError(*mistakes.values())
    return block


def field_names(entry: Entry[Any]) -> list[str]:
    """The configuration keys of a block, in their order."""
    return [field.name for field in fields(entry.factory) if field.init]


def section_keys(family: Family[Any], entry: Entry[Any]) -> list[str]:
    """The keys that may stand in the family's section when it names `entry`."""
    own = list(family.model.model_fields)
    return own + [name for name in field_names(entry) if name not in own]


def block_keys() -> list[str]:
    """The dotted keys of every block's parameters."""
    keys = [
        f"{family.section}.{name}"
        for family in FAMILIES.values()
        for entry in family.registry.entries()
        for name in field_names(entry)
        if name not in family.own
    ]
    return list(dict.fromkeys(keys))


def text_or_null(dotted: str) -> bool | None:
    """As `keys.text_key`, also of parameters of blocks: text, if they are text in every block that has them. Only the
    blocks of that section are asked, because their schemas take time to make."""
    own = text_key(Config, dotted)
    section, _, name = dotted.rpartition(".")
    families = (family for family in FAMILIES.values() if own is None and family.section == section)
    nodes = [
        entry.properties[name] for family in families for entry in family.registry.entries() if name in entry.properties
    ]
    return any(map(problems.takes_null, nodes)) if nodes and all(map(problems.is_text, nodes)) else own


def _mistakes(entry: Entry[Any], family: Family[Any], error: ValidationError, where: Where) -> dict[str, Problem]:
    """One problem for each field that pydantic complains of."""
    properties = entry.properties
    found: dict[str, Problem] = {}
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        key = f"{family.section}.{name}".rstrip(".")
        value = detail["input"] if name else ...
        code = problems.code_of(detail["type"])
        if len(detail["loc"]) > 1 and properties.get(name, {}).get("type") == "object":
            key, text = f"{key}.{detail['loc'][1]}", detail["msg"]
            if code == "unknown_choice":
                code = "unknown_key"
                text, value = f"no such key; known: {', '.join(properties[name]['propertyNames']['enum'])}", ...
        elif code == "unknown_key":
            text = _not_a_parameter(name, entry, family)
        elif code == "missing":
            text, value = f"is missing; {entry.name} needs it", ...
        elif detail["type"] == "value_error" or name not in properties:
            text = problems.said(detail["msg"])
        else:
            text = f"must be {problems.allowed(properties[name], value)}"
        found.setdefault(key, problems.problem(code, key, text, value, where(key)))
    return found


def undecided(family: Family[Any], given: Mapping[str, Any], where: Where = lambda _: "") -> list[Problem]:
    """Mistakes among the parameters of a section whose block is still to be chosen (`auto`).

    A source's keys may wait for the choice, so they only have to exist; a scheme is never chosen for its keys.
    """
    found = []
    for name, value in given.items():
        key, owners = f"{family.section}.{name}", _owners(family, name)
        if name in family.own or (owners and family is SOURCE):
            continue
        choice = f"{family.section}.{family.key}={' or '.join(owners)}"
        code: Code = "idle_key" if owners else "unknown_key"
        text = f"says nothing to {given.get(family.key, AUTO)}; choose {choice}"
        if not owners:
            text = problems.unknown_key(key, list(family.model.model_fields), [*schema_keys(), *block_keys()])
        found.append(problems.problem(code, key, text, value, where(key)))
    return found


def _owners(family: Family[Any], name: str) -> list[str]:
    """The blocks of a family that have a parameter called `name`."""
    return [entry.name for entry in family.registry.entries() if name in field_names(entry)]


def _not_a_parameter(name: str, entry: Entry[Any], family: Family[Any]) -> str:
    here = section_keys(family, entry)
    owners = _owners(family, name)
    if owners:
        return f"{entry.name} has no such key, it is one of {', '.join(owners)}. Known here: {', '.join(here)}"
    return problems.unknown_key(f"{family.section}.{name}", here, [*schema_keys(), *block_keys()])


def frozen_by(model: Mapping[str, Any]) -> str | None:
    """The key of a model section, with its value, that freezes a part of the model; None: all of it is trained. What is
    frozen never travels."""
    if model.get("freeze", "none") != "none":
        return f"model.freeze = {model['freeze']!r}"
    if model.get("lora", {}).get("rank"):
        return "model.lora"
    if model.get("lock_text"):
        return "model.lock_text = true"
    return f"model.tune = {model['tune']!r}" if model.get("tune", "all") != "all" else None


def reads_texts(model: ModelSection) -> bool:
    """Whether the model that is named takes texts beside images."""
    return model.name != PYTHON and find(MODEL, model.name).factory.reads_texts
