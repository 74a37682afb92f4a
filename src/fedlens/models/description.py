"""What `model.json` says beside the tensors of a trained model. Without PyTorch, whose import takes two seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fedlens.core import clean
from fedlens.core.files import read_regular
from fedlens.errors import ModelError

Norm = Literal["batch", "group"]

WEIGHTS = "model.safetensors"
MAX_DESCRIPTION = 16 * 2**20
"""Maximum size of `model.json` in bytes; enough for some hundred thousand class names."""
DESCRIPTION = "model.json"


@dataclass(frozen=True)
class ModelDescription:
    """What is needed to rebuild a model and to name its predictions.

    builder         registered name; None: a user's own module
    parameters      the builder's own configuration keys
    image_size      side in pixels of the training images
    image_channels  1 (grey) or 3
    accuracy        on the global test set; None: not measured
    partly_private  some tensors hold their initial values, because every client trains its own
    """

    builder: str | None
    num_classes: Annotated[int, Field(ge=1, le=10**7)]
    class_names: tuple[str, ...]
    image_size: Annotated[int, Field(ge=1, le=2**16)]
    image_channels: Annotated[int, Field(ge=1, le=3)]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    norm: Norm = "batch"
    accuracy: float | None = None
    partly_private: bool = False


_ADAPTER = TypeAdapter(ModelDescription)


def to_json(description: ModelDescription) -> bytes:
    """The content of `model.json`."""
    return _ADAPTER.dump_json(description, indent=2)


def read_description(folder: Path) -> ModelDescription:
    """Read `model.json` in `folder`.

    Raises:
        ModelError: the file is missing or damaged.
    """
    path = folder / DESCRIPTION
    try:
        return _ADAPTER.validate_json(read_regular(path, MAX_DESCRIPTION))
    except OSError as error:
        raise ModelError(f"{path}: no saved model there ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(f"{path} is damaged: {clean.line(f'{where}: ' * bool(where) + first['msg'])}") from error
