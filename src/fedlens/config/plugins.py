"""A user's own blocks: `plugins: [my_strategy.py]` imports the files; decorators in them register the blocks."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from fedlens.errors import Code, ConfigError, Problem


def load_plugins(paths: Sequence[Path]) -> None:
    """Import each file as the module `fedlens_plugin_<stem>`; an unchanged file is not executed again.

    The fixed module name lets worker processes find classes that were pickled by name.

    Raises:
        ConfigError: a file is missing, two have the same name, or one fails; one line for each, with file and line
            number.
    """
    mistakes: list[Problem] = []
    names: dict[str, Path] = {}
    for path in paths:
        first = names.setdefault(path.stem, path)
        if first.resolve() != path.resolve():
            mistakes.append(_problem("duplicate", f"{first} and {path} have the same name; rename one"))
        elif not path.is_file():
            mistakes.append(_problem("not_found", f"{path} is no file (relative paths start at {Path.cwd()})"))
        else:
            mistakes.extend(_import(path))
    if mistakes:
        raise ConfigError(*mistakes)


def _problem(code: Code, text: str) -> Problem:
    return Problem(code, "plugins", f"plugins: {text}")


def _import(path: Path) -> list[Problem]:
    name, source = f"fedlens_plugin_{path.stem}", path.read_bytes()
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__dict__.get("__fedlens_source__") == (path.resolve(), source):
        return []
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        return [_problem("invalid_value", f"{path} is no Python file (its name must end in .py)")]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module while it is executed
    try:
        exec(compile(source, str(path.resolve()), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        return [_broken(path, error)]
    _remember(module, path, source)
    return []


def _remember(module: ModuleType, path: Path, source: bytes) -> None:
    module.__dict__["__fedlens_source__"] = (path.resolve(), source)


def _broken(path: Path, error: Exception) -> Problem:
    if isinstance(error, SyntaxError) and error.filename == str(path.resolve()):
        line = error.lineno
    else:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path.resolve())), None)
    return _problem("plugin_failed", f"{path}, line {line}: {type(error).__name__}: {error}")
