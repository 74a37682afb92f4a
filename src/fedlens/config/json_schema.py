"""The JSON schema of a configuration file, for editors: sections, keys, and the parameters of every block."""

from __future__ import annotations

import json
from typing import Any

from fedlens.config.blocks import FAMILIES, Family
from fedlens.config.schema import Config


def schema() -> dict[str, Any]:
    """JSON schema (2020-12) of the whole configuration; block names are choices, plugins' blocks included."""
    document: dict[str, Any] = _untitled(Config.model_json_schema())
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "FedLens configuration"
    for family in FAMILIES.values():
        _add_blocks(document["$defs"][family.model.__name__], family)
    return document


def schema_text() -> str:
    """The schema as it is written to `config.schema.json`."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _add_blocks(section: dict[str, Any], family: Family[Any]) -> None:
    """Name the family's blocks, and list their parameters beside the section's own keys.

    Which parameter goes with which name is a condition (`if`/`then`) on the name.
    """
    own = section["properties"]
    names = [entry.name for entry in family.registry.entries()]
    choice: dict[str, Any] = {"enum": sorted({*names, family.default})}
    open_ended = [f"^{entry.name}:" for entry in family.registry.entries() if entry.suffix_field]
    if open_ended:
        choice = {"anyOf": [choice, *({"type": "string", "pattern": pattern} for pattern in open_ended)]}
    own[family.key] = {key: value for key, value in own[family.key].items() if key != "type"} | choice
    conditions = []
    parameters: dict[str, Any] = {}
    for entry in family.registry.entries():
        extra = {name: _untitled(node) for name, node in entry.properties.items() if name not in own}
        if extra:
            named = {"properties": {family.key: {"const": entry.name}}, "required": [family.key]}
            conditions.append({"if": named, "then": {"properties": extra}})
        for name, node in extra.items():
            parameters.setdefault(name, {"description": f"{entry.name}: {node.get('description', name)}"})
    own.update(parameters)
    if conditions:
        section["allOf"] = conditions
    section["additionalProperties"] = False


def _untitled(node: Any) -> Any:
    """A copy without pydantic's generated titles, which repeat the keys."""
    if isinstance(node, list):
        return [_untitled(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _untitled(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
