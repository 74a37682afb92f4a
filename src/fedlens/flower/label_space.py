"""The classes, image size and channels that sites share where the server has no images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedlens.build.builders import natural_size
from fedlens.config.schema import Config
from fedlens.core.limits import Side
from fedlens.flower.messages import Description


@dataclass(frozen=True)
class LabelSpace:
    """What sites must have in common. It is kept in the run's folder, so that a resumed run does not ask again."""

    class_names: Annotated[Sequence[str], Field(min_length=1)]
    image_size: Side
    channels: Literal[1, 3]


def agreement(config: Config, sites: Sequence[Description]) -> LabelSpace:
    """The label space that fits the sites that joined first."""
    sizes = [site.native_size for site in sites]
    size = config.data.image_size or natural_size(config, max(sizes) if all(sizes) else None)
    return LabelSpace(label_space(sites), size, 1 if all(site.channels == 1 for site in sites) else 3)


def label_space(sites: Sequence[Description]) -> tuple[str, ...]:
    """One order for all: that of the site whose classes include everybody's, else all names, sorted."""
    everything = {name for site in sites for name in site.class_names}
    for site in sites:
        if set(site.class_names) == everything:
            return site.class_names
    return tuple(sorted(everything))
