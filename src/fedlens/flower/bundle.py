"""The two files that FedLens submits to a SuperLink as its app.

They are always the same for one version of FedLens, so their hash identifies the code of a run. A FedLens client
compares the hash and never fetches the files; a stock SuperNode installs and runs them, and they only import FedLens.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version

from flwr.supercore.fab import Fab

from fedlens.flower.internals.run import built

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedlens-app"
version = "{version}"
description = "FedLens between real machines"
license = {{ text = "Apache-2.0" }}
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "fedlens"

[tool.flwr.app.components]
serverapp = "fedlens_app.app:server_app"
clientapp = "fedlens_app.app:client_app"

[tool.flwr.app.config]
config = ""
overrides = ""
data = ""
"""

_APP = """\
from fedlens.flower.app import client_app, server_app

__all__ = ["client_app", "server_app"]
"""


@lru_cache(maxsize=1)
def bundle() -> Fab:
    """The app of this version of FedLens."""
    return built({name: text.encode() for name, text in files().items()})


def files() -> dict[str, str]:
    """Its files: name → text."""
    pyproject = _PYPROJECT.format(version=version("fedlens"))
    return {"pyproject.toml": pyproject, "fedlens_app/__init__.py": "", "fedlens_app/app.py": _APP}
