"""Lists of classes that somebody gives a model which takes their names as texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedlens.core import clean
from fedlens.core.files import read_regular
from fedlens.core.words import count
from fedlens.data.labels import normalized
from fedlens.data.tree import printable
from fedlens.errors import Code, ConfigError
from fedlens.models.dual_encoder import MOST_CLASSES

FILE = "@"
"""Before the name of a file that has a class on each line."""

_LONGEST_FILE = 16 * 2**20


def asked_classes(asked: str) -> list[str]:
    """The names in `asked`, which has commas between them, or is "@FILE": a class on each line, where empty lines do
    not count.

    Raises:
        ConfigError: the file cannot be read.
    """
    if not asked.startswith(FILE):
        return asked.split(",") if asked.strip() else []
    path = Path(asked.removeprefix(FILE)).expanduser()
    try:
        text = read_regular(path, _LONGEST_FILE).decode("utf-8-sig")
    except OSError as error:
        raise _refusal("unreadable", f"{printable(path)} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise _refusal("unreadable", f"{printable(path)} is no text in UTF-8; save it as such") from error
    return [line for line in text.split("\n") if line.strip()]


def checked_classes(names: Sequence[str]) -> tuple[str, ...]:
    """`names` in the form for comparison.

    Raises:
        ConfigError: there is none, or there are too many; one is empty, too long, has characters that cannot be shown,
            or is given twice.
    """
    if not names:
        raise _refusal("missing", 'there is no name; give some, as "sneaker,striped shirt", or a file: @names.txt')
    if len(names) > MOST_CLASSES:
        raise _refusal("out_of_range", f"{count(len(names), 'name')}; give {MOST_CLASSES:,} at most")
    found: dict[str, int] = {}
    for number, given in enumerate(names, start=1):
        name = _checked(given.strip(), number)
        if name in found:
            raise _refusal("duplicate", f"{name} is given twice, as names {found[name]} and {number}; leave one out")
        found[name] = number
    return tuple(found)


def _checked(name: str, number: int) -> str:
    if not name:
        raise _refusal("invalid_value", f"name {number} is empty; write it, or leave out the comma")
    if len(name) > clean.LONGEST:
        raise _refusal("out_of_range", f"name {number} has {len(name):,} characters; give it {clean.LONGEST} at most")
    if not clean.is_clean(name):
        raise _refusal(
            "invalid_value", f"name {number}, {printable(name)}, has control characters; write it without them"
        )
    return normalized(name)


def _refusal(code: Code, words: str) -> ConfigError:
    return ConfigError(f"--classes: {words}", code=code, key="--classes")
