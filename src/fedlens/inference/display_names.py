"""Display names: what people read in place of the names of classes, such as names in their own language."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from fedlens.core.files import LONGEST_JSON, read_regular
from fedlens.core.words import nearest
from fedlens.data.labels import normalized
from fedlens.data.tree import printable
from fedlens.errors import Code, ConfigError, Problem

_MOST_NAMES = 8

_INVISIBLE = " \N{REPLACEMENT CHARACTER}"
"""What `normalized` makes of a text in which nothing can be seen."""


def display_names(asked: str, class_names: Sequence[str]) -> dict[str, str]:
    """Class → display name, for all of a model's `class_names`: one that is left out keeps its own name.

    asked  a JSON file, {class: display name}; or a language ("zh") that ships for the classes of the sample

    Raises:
        ConfigError: no such file or language, or it does not fit the model; a line for each kind of mistake.
    """
    languages = _languages()
    if asked in languages:
        shipped = json.loads(languages[asked].read_text(encoding="utf-8"))
        if other := [name for name in class_names if name not in shipped]:
            raise _refusal(
                asked,
                "incompatible",
                f"these names are for the classes of the sample, and the model has others: {listed(other)}; give a "
                'JSON file, {"class": "display name"}',
            )
        return {name: shipped[name] for name in class_names}
    given = _read(asked, languages)
    if problems := list(_problems(asked, given, class_names)):
        raise ConfigError(*problems)
    return {name: given.get(name, name) for name in class_names}


def _languages() -> dict[str, Traversable]:
    """Language → the file that ships."""
    folder = files("fedlens.data").joinpath("sample", "names")
    return {file.name.removesuffix(".json"): file for file in sorted(folder.iterdir(), key=lambda one: one.name)}


def _read(asked: str, languages: Mapping[str, object]) -> dict[str, str]:
    """The file's classes and display names, in the form for comparison.

    Raises:
        ConfigError: there is none, or it holds something else.
    """
    try:
        text = read_regular(Path(asked).expanduser(), LONGEST_JSON).decode("utf-8-sig")
        found = json.loads(text, object_pairs_hook=partial(_without_repeats, asked))
    except FileNotFoundError as error:
        ship = ", ".join(languages)
        raise _refusal(asked, "not_found", f"no such file, and no language that ships; these do: {ship}") from error
    except OSError as error:
        raise _refusal(asked, "unreadable", f"cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise _refusal(asked, "unreadable", f'no JSON in UTF-8 of the form {{"class": "name"}} ({error})') from error
    if not isinstance(found, dict):
        raise _refusal(asked, "wrong_type", 'it must hold an object, {"class": "display name"}')
    if wrong := [name for name, shown in found.items() if not isinstance(shown, str)]:
        raise _refusal(asked, "wrong_type", f"the display name of {listed(wrong)} is no text; put it in quotes")
    return {name: normalized(shown).strip(_INVISIBLE) for name, shown in found.items()}


def _without_repeats(asked: str, pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Raises ConfigError if a class stands twice: the first of its display names would be lost."""
    pairs = [(normalized(name), value) for name, value in pairs]
    if twice := _repeated([name for name, _ in pairs]):
        raise _refusal(asked, "duplicate", f"{listed(twice)}: given twice; keep one of them")
    return dict(pairs)


def _problems(asked: str, given: Mapping[str, str], class_names: Sequence[str]) -> Iterator[Problem]:
    if unknown := [name for name in given if name not in class_names]:
        near = nearest(unknown[0], class_names)
        way_out = f"did you mean {printable(near)}?" if near else f"its classes are {listed(class_names)}"
        yield _problem(asked, "unknown_name", f"no class of the model: {listed(unknown)}; {way_out}")
    if empty := [name for name, shown in given.items() if not shown]:
        yield _problem(
            asked,
            "invalid_value",
            f"the display name of {listed(empty)} is empty; leave the class out to keep its name",
        )
    shown = {name: given.get(name) or name for name in class_names}
    for repeated in _repeated(list(shown.values()))[:1]:
        both = [name for name in class_names if shown[name] == repeated]
        yield _problem(asked, "duplicate", f"{printable(repeated)} is shown for {listed(both)}; give each its own name")


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]


def listed(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(printable, names[:_MOST_NAMES])) + more


def _problem(asked: str, code: Code, words: str) -> Problem:
    return Problem(code, "--names", f"--names {printable(asked)}: {words}")


def _refusal(asked: str, code: Code, words: str) -> ConfigError:
    return ConfigError(_problem(asked, code, words))
