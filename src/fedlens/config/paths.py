"""Relative paths of a run's configuration, and their absolute form when it began.

A configuration keeps paths as typed. `paths.json` beside it stores the absolute ones, so that a run can be resumed from
another folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlens.config.schema import Config
from fedlens.core.files import read_json, write_json
from fedlens.data.display_names import languages
from fedlens.errors import ConfigError

PATHS_FILE = "paths.json"

Found = str | list[str]


def save_paths(file: Path, config: Config) -> None:
    """Write the absolute form of every relative path in `config`, by its dotted key."""
    write_json(file, {key: _absolute(value) for key, value in _relative(config).items()})


def kept_paths(config_file: Path, tree: Mapping[str, Any]) -> dict[str, Found]:
    """Dotted key → absolute path, for paths in a run's configuration `tree` that now resolve differently than when the
    run began and whose original target still exists. Empty for runs without `paths.json`.

    Raises:
        ConfigError: `paths.json` is damaged.
    """
    file = config_file.with_name(PATHS_FILE)
    if not file.exists():
        return {}
    try:
        kept = {str(key): value for key, value in read_json(file).items()}
    except (OSError, ValueError, AttributeError) as error:
        line = f"{file}: not a JSON object of keys and paths: {error}; remove the file"
        raise ConfigError(line, code="unreadable", key=str(file)) from error
    return {key: value for key, value in kept.items() if _is_there(value) and _here(tree, key) != value}


def _relative(config: Config) -> dict[str, Path | list[Path]]:
    named = {
        "data.path": config.data.path,
        "data.cache_dir": config.data.cache_dir,
        "model.weights": config.model.weights,
        "server.certs": config.server.certs,
    }
    found: dict[str, Path | list[Path]] = {}
    for key, path in named.items():
        if path is not None and not path.expanduser().is_absolute():
            found[key] = path
    names = config.tracking.names
    if names is not None and names not in languages() and not Path(names).expanduser().is_absolute():
        found["tracking.names"] = Path(names)
    if any(not path.expanduser().is_absolute() for path in config.plugins):
        found["plugins"] = config.plugins
    return found


def _absolute(value: Path | list[Path]) -> Found:
    if isinstance(value, list):
        return [str(path.expanduser().absolute()) for path in value]
    return str(value.expanduser().absolute())


def _here(tree: Mapping[str, Any], key: str) -> Found | None:
    """The absolute form, relative to the current folder, of the path that the configuration has under `key`."""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, list):
        return _absolute([Path(str(path)) for path in value])
    return None if value is None else _absolute(Path(str(value)))


def _is_there(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(path, str) and Path(path).exists() for path in values)
