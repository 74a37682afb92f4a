"""docs/architecture.md names files, classes, methods and layers that are there."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict

from tests.docs.snippets import ROOT

SOURCE = ROOT / "src" / "fedlens"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", PAGE, re.DOTALL))


def members() -> dict[str, set[str]]:
    """Class → names of its methods and fields, and of what its methods set on `self`."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for inner in ast.walk(node):
                    match inner:
                        case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                            found[node.name].add(name)
                        case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                            found[node.name].add(name)
                        case _:
                            found[node.name]  # an empty class is a class, too
    return found


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"[a-z_]+(?:/[a-z_]+)*\.py\b", CODE))
    assert len(named) > 20
    assert not [name for name in named if not (SOURCE / name).is_file()]


def test_every_class_and_method_that_is_named_is_there() -> None:
    known = members()
    classes = set(re.findall(r"\b[A-Z][a-z]+[A-Z]\w+\b", CODE))
    assert "ClientTrainer" in classes
    assert not classes - known.keys()
    methods = set(re.findall(r"\b([A-Z]\w+)\.([a-z_]\w*)\b", CODE))
    assert ("Strategy", "finish") in methods
    assert not [(owner, name) for owner, name in methods if name not in known.get(owner, ())]


def test_the_layers_are_those_that_import_linter_checks() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    wanted = [frozenset(re.findall(r"fedlens\.(\w+)", layer)) for layer in layers]
    rows = re.findall(r"^\| \d [^|\n]*\| ([^\n]*?) \| ", PAGE.replace(r" \| ", " "), re.MULTILINE)
    assert [frozenset(re.findall(r"`(\w+)`", row)) for row in rows] == wanted
