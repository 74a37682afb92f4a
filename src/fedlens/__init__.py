"""FedLens: a federated image-recognition lab.

`import fedlens` is quick; what is heavy is imported by the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlens.api import Run, compare, load_run, resume, run
    from fedlens.errors import ConfigError, FedLensError

    __version__: str

__all__ = ["ConfigError", "FedLensError", "Run", "__version__", "compare", "load_run", "resume", "run"]
_ERRORS = ("ConfigError", "FedLensError")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fedlens")
    if name in _ERRORS:
        from fedlens import errors

        return getattr(errors, name)
    if name in __all__:
        from fedlens import api

        return getattr(api, name)
    raise AttributeError(f"module 'fedlens' has no attribute {name!r}")
