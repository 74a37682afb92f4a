"""Questions before something large is begun, or something is removed."""

from __future__ import annotations

import typer
from click import Abort

from fedlens.errors import ConfigError


def agreed(question: str, otherwise: str) -> bool:
    """Whether the user agrees. `otherwise`: what happens without an answer, "nothing was removed".

    Raises:
        ConfigError: there is nobody to ask.
    """
    try:
        return typer.confirm(question)
    except Abort as error:
        raise ConfigError(f"{otherwise}, as nobody answers here: use --yes", code="missing", key="--yes") from error
