"""What a test expects of a `ConfigError`: the code and the key of each mistake, not its words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fedlens.errors import Code, ConfigError


@contextmanager
def refuses(*expected: tuple[Code, str]) -> Iterator[pytest.ExceptionInfo[ConfigError]]:
    """Inside, a `ConfigError` is raised with these (code, key), in any order, and no others."""
    with pytest.raises(ConfigError) as caught:
        yield caught
    assert sorted((one.code, one.key) for one in caught.value.problems) == sorted(expected), str(caught.value)
