"""The ranges of numbers in a configuration.

Upper bounds of whole numbers lie well above what is ever computed with, and below where libraries overflow (32 bits) or
a typing error would keep a machine busy for years. They are for mistakes; what the data and the machine allow is
checked later.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MANY = 1_000_000_000
"""Images, pixels of an image."""

MOST_CLIENTS = 1_000_000
MOST_CLASSES = 10_000_000
LONGEST_SIDE = 16_384
"""Pixels a side."""

Fraction = Annotated[float, Field(ge=0, lt=1)]
Number = Annotated[int, Field(ge=1, le=MANY)]
Rank = Annotated[int, Field(ge=0, le=10_000)]
NumberOrNone = Annotated[int, Field(ge=0, le=MANY)]
Times = Annotated[int, Field(ge=1, le=1_000_000)]
"""Rounds, passes, steps."""
TimesOrNever = Annotated[int, Field(ge=0, le=1_000_000)]
Clients = Annotated[int, Field(ge=1, le=MOST_CLIENTS)]
ClientsOrNone = Annotated[int, Field(ge=0, le=MOST_CLIENTS)]
Classes = Annotated[int, Field(ge=1, le=MOST_CLASSES)]
ClassIndex = Annotated[int, Field(ge=0, le=MOST_CLASSES - 1)]
Side = Annotated[int, Field(ge=1, le=LONGEST_SIDE)]
Workers = Annotated[int, Field(ge=1, le=1024)]
"""Processes or threads; clients that one of them trains together."""
Layers = Annotated[int, Field(ge=1, le=10_000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
