"""What a test expects of a `ConfigError`: the code and the key of each mistake, not its words."""

from __future__ import annotations

import re
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


@contextmanager
def refuses_with(code: Code, line: str) -> Iterator[pytest.ExceptionInfo[ConfigError]]:
    """As `refuses`, for one mistake whose line begins with `line`, which begins with the key."""
    with refuses((code, re.split(r"[ =:]", line, maxsplit=1)[0])) as caught:
        yield caught
    assert str(caught.value).startswith(line)
