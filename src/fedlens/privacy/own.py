"""A user's own function on each update, such as the `add_dp_noise(parameters, noise_scale)` of tutorials.

Nothing is clipped, so one client can change the sum without bound, and no noise has an ε: there is no claim.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from fedlens.core.types import State
from fedlens.errors import ConfigError
from fedlens.privacy.base import Federation, PrivacyMode, privacy_modes
from fedlens.strategies.base import ClientUpdate
from fedlens.transforms.base import Encoded, EncodingContext, UpdateTransform

OwnFunction = Callable[[Sequence[np.ndarray], float], Sequence[np.ndarray]]
"""(arrays, noise_scale) → arrays of the same number and shapes."""


@privacy_modes.register("own", summary="a function of yours changes each update; NO privacy is claimed")
@dataclass(frozen=True)
class Own(PrivacyMode):
    """`function` gets the update as a list of NumPy arrays, and `noise_scale`; it gives such a list back."""

    function: Annotated[
        str,
        Field(
            description="file.function of a file in `plugins`, such as noise.add_dp_noise",
            examples=["noise.add_dp_noise"],
        ),
    ]
    noise_scale: Annotated[float, Field(ge=0, description="second argument of the function")] = 0.01

    @property
    def disclaimer(self) -> str:
        return f"NO claim: {self.function} changes updates, but nothing is clipped, and so nothing is bounded"

    def transform(self, federation: Federation) -> OwnNoise:
        """As `PrivacyMode.transform`.

        Raises:
            ConfigError: no plugin has that function.
        """
        return OwnNoise(self.function, self._found(), self.noise_scale)

    def _found(self) -> OwnFunction:
        """Looked up among the plugins of this machine, never imported by a name that a server may have sent."""
        file, _, name = self.function.partition(".")
        function: Any = getattr(sys.modules.get(f"fedlens_plugin_{file}"), name, None)
        if not callable(function):
            raise ConfigError(
                f"privacy.function = {self.function!r}: there is no function {name} in a plugin {file}.py; name the "
                f"file in plugins: [{file}.py]",
                code="unknown_name",
                key="privacy.function",
            )
        return function  # type: ignore[no-any-return]


@dataclass(frozen=True)
class OwnNoise(UpdateTransform):
    """Passes each update through the user's function, in the order of the tensors' names."""

    where: str
    function: OwnFunction
    noise_scale: float
    name: ClassVar[str] = "own"

    def encode(self, update: ClientUpdate, ctx: EncodingContext) -> Encoded:
        """As `UpdateTransform.encode`.

        Raises:
            ConfigError: the function raised an exception, or gave something else than such arrays.
        """
        names = sorted(update.payload)
        arrays = [update.payload[name].numpy().copy() for name in names]
        try:
            given = [np.asarray(array) for array in self.function(arrays, self.noise_scale)]
        except Exception as error:
            raise self._failed(f"{type(error).__name__}: {error}") from error
        if [array.shape for array in given] != [update.payload[name].shape for name in names]:
            raise self._failed(f"it gave {len(given)} arrays, of other number or shapes than the {len(names)} it got")
        payload: State = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(update.payload[name].dtype)
            for name, array in zip(names, given, strict=True)
        }
        return Encoded(replace(update, payload=payload))

    @classmethod
    def encodes(cls) -> bool:
        return False  # its updates travel as others do

    def _failed(self, reason: str) -> ConfigError:
        return ConfigError(f"privacy.function = {self.where!r}: {reason}", code="plugin_failed", key="privacy.function")
