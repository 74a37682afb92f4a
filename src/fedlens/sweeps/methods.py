"""The methods of a search, each with the keys that it has, and a study of its own in the search's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from fedlens.build.load import load
from fedlens.config.blocks import PERSONALIZATION, find
from fedlens.config.keys import value_in
from fedlens.config.overrides import COMMAND_LINE
from fedlens.config.schema import Config
from fedlens.core.seeds import derive
from fedlens.core.words import short_names
from fedlens.errors import ConfigError
from fedlens.personalization.base import Personalization
from fedlens.sweeps.points import Axis, Choice, check_once, placed
from fedlens.sweeps.space import Space, described, holds, rounded, samples
from fedlens.tracking.run_dir import clean_name

TRIALS = "trials.jsonl"
"""The file of all studies, in the search's folder: what optuna's JournalStorage writes, a line of JSON a step."""

STARTUP_TRIALS = 5
"""So many trials run to their end before one is stopped."""


@dataclass(frozen=True)
class Method:
    """name: "" where there is only one. space: the searched keys that it has; lacks: those that it has not. make:
    values → the configuration of a trial."""

    name: str
    space: Space
    lacks: Sequence[str]
    make: Callable[[Mapping[str, Any]], Config]

    @property
    def file(self) -> str:
        """Its name in files and folders."""
        return clean_name(self.name or "best")

    def label(self, number: int) -> str:
        """The name of a trial."""
        return f"{self.name or 'trial'} {number}"

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial sets."""
        return {key: rounded(parameters[key]) for key in self.space}

    def told(self, values: Mapping[str, Any]) -> str:
        """ "lr=0.03 mu=0.1"."""
        short = short_names(self.space)
        return " ".join(f"{short[key]}={value}" for key, value in values.items())


def methods(path: Path | None, fixed: Sequence[str], axes: Sequence[Axis], space: Space, folder: str) -> list[Method]:
    """A method for each combination of `axes`; their runs lie in `folder`, inside tracking.dir. A searched key that a
    method does not have is left out of its search.

    Raises:
        ConfigError: a value that could be tried is invalid, no method has a key, or nothing is searched.
    """
    if not space:
        load(path, fixed, use="run")  # raises where a range was written wrong
        raise ConfigError(
            "nothing to search over: give at least one key a range or a list, such as optimizer.lr=log:0.001:1",
            code="missing",
        )
    check_once([*axes, [Choice(dict.fromkeys(space))]], fixed)
    short = short_names(key for axis in axes for choice in axis for key in choice.values)
    found = [_method(path, fixed, chosen, short, space, folder) for chosen in product(*axes)]
    files = Counter(method.file for method in found)
    if alike := [method.name for method in found if files[method.file] > 1]:
        raise ConfigError(
            f"{', '.join(alike)}: names that give one file, {clean_name(alike[0])}.yaml; choose others",
            code="duplicate",
            key="--case",
        )
    if nowhere := [key for key in space if all(key in method.lacks for method in found)]:
        values = {key: samples(space[key])[0] for key in nowhere}
        found[0].make(values)  # raises what is wrong with the key
    return found


def _method(
    path: Path | None,
    fixed: Sequence[str],
    chosen: Sequence[Choice],
    short: Mapping[str, str],
    space: Space,
    folder: str,
) -> Method:
    name = " ".join(choice.words(short) for choice in chosen)
    given = {key: value for choice in chosen for key, value in choice.values.items()}
    overrides = [*fixed, *(override for choice in chosen for override in choice.overrides)]

    def make(values: Mapping[str, Any]) -> Config:
        config = load(path, overrides, {**given, **values}, origin=COMMAND_LINE, use="run")
        return placed(config, dir=config.tracking.dir / folder)

    lacks: set[str] = set()
    for values in _tried(space):
        try:
            make({key: value for key, value in values.items() if key not in lacks})
        except ConfigError as error:
            absent = {problem.key for problem in error.problems if problem.code in ("unknown_key", "idle_key")}
            if not absent or any(problem.key not in absent & space.keys() for problem in error.problems):
                raise
            lacks |= absent
    return Method(name, {key: one for key, one in space.items() if key not in lacks}, sorted(lacks), make)


def _tried(space: Space) -> Iterator[dict[str, Any]]:
    """Values for all keys, in which each key has each of its `samples` once."""
    first = {key: samples(distribution)[0] for key, distribution in space.items()}
    yield first
    for key, distribution in space.items():
        for value in samples(distribution)[1:]:
            yield {**first, key: value}


def check(method: Method) -> None:
    """Raises ConfigError: validation would tell nothing of a trial."""
    config = method.make({})
    if not config.data.validation or not config.federated.evaluate_every:
        key = "federated.evaluate_every" if config.data.validation else "data.validation"
        raise ConfigError(
            f"{key} = 0: a search chooses by accuracy on validation images, so there have to be some; "
            f"{key}={'1' if config.data.validation else '0.1'}",
            code="contradiction",
            key=key,
        )
    searched = method.space.get("personalization.name")
    for name in [config.personalization.name] if searched is None else samples(searched):
        if _unseen(name):
            raise ConfigError(
                f"personalization.name = {name}: the validation images tell of the shared model, and clients use "
                "models of their own, so a search cannot choose by them. Search with personalization.name=none, or a "
                "method with private parts, such as fedper",
                code="incompatible",
                key="personalization.name",
            )


def _unseen(personalization: str) -> bool:
    """Whether clients use models of their own while validation is of the shared one: no part of that is private."""
    factory: Any = find(PERSONALIZATION, personalization).factory
    return personalization != "none" and factory.is_private is Personalization.is_private


# -- studies -----------------------------------------------------------------------------------------------------------


def open_study(method: Method, folder: Path, prune: bool) -> optuna.Study:
    """The method's study, as far as it has come.

    Raises:
        ConfigError: the folder has another search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    own, path = method.make({}), folder / TRIALS
    study = optuna.create_study(
        storage=_storage(path),
        study_name=method.name or "search",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=own.federated.num_rounds // 4)
        if prune
        else optuna.pruners.NopPruner(),
    )
    search = {"space": {key: described(one) for key, one in method.space.items()}, "configuration": _identity(own)}
    if study.user_attrs.get("search", search) != search:
        raise ConfigError(
            f"{folder}: holds a search of another configuration or over other ranges. Give this one a name of its own "
            "(--name), or remove that folder",
            code="contradiction",
            key="--name",
        )
    if not study.trials:
        study.set_user_attr("search", search)
        study.enqueue_trial(_own_values(method, own))
    return study


def _storage(path: Path) -> JournalStorage:
    """The journal, without a last line that a sudden end has cut off.

    Raises:
        ConfigError: it cannot be read.
    """
    if path.exists():
        whole, newline, _ = path.read_bytes().rpartition(b"\n")
        with path.open("r+b") as file:
            file.truncate(len(whole + newline))
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"{path}: is not what a search writes ({error}); remove its folder, or use another --name",
            code="unreadable",
            key=str(path),
        ) from error


def sampler(seed: int, method: Method, number: int) -> optuna.samplers.BaseSampler:
    """What draws a trial's values. A new one for each, so that a search that was interrupted goes on with the draws
    that it would have made. Trials that go on at the same time count as bad ones (constant liar), which keeps them
    apart."""
    return optuna.samplers.TPESampler(seed=derive(seed, "tune", method.name, number) % 2**32, constant_liar=True)


def _identity(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"tracking"})


def _own_values(method: Method, config: Config) -> dict[str, Any]:
    """The values that the configuration has, where the search could try them."""
    tree = config.model_dump(mode="json")
    own = {key: value_in(tree, key) for key in method.space}
    return {key: value for key, value in own.items() if holds(method.space[key], value)}
