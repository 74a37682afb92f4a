"""Every model here is tiny."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.helpers import one_thread


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield
