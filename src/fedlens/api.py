"""What a notebook or a script imports.

import fedlens

run = fedlens.run("config.yaml", "federated.num_rounds=3")
run.metrics          # a table, one row a round
run.model            # the trained model
fedlens.compare("logs")
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlens.build.load import load, load_saved
from fedlens.build.own_strategy import check_alone, check_same, keys_of
from fedlens.config.blocks import MODEL, PYTHON, SOURCE, Family
from fedlens.config.idle import OWN_DATA, OWN_MODEL, Use
from fedlens.config.schema import Config
from fedlens.core.clean import escape
from fedlens.core.section import BlockSection
from fedlens.errors import ConfigError, FedLensError
from fedlens.explain.explain import explain
from fedlens.tracking.card import card
from fedlens.tracking.notebook import screen
from fedlens.tracking.observer import Observer, Silent
from fedlens.tracking.run_dir import RunDir
from fedlens.tracking.summary import algorithm_parts

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn
    from torch.utils.data import Dataset

    from fedlens.core.records import Tracker
    from fedlens.data.types import FederatedData
    from fedlens.strategies.base import Strategy

MAY_CHANGE = (
    "federated.num_rounds",
    "federated.evaluate_",
    "federated.quorum",
    "federated.min_fit_clients",
    "federated.round_deadline",
    "memory.precision",
    "memory.micro_batch",
    "memory.gradient_checkpointing",
    "memory.auto",
    "runtime.",
    "stopping.",
    "tracking.",
    "server.",
    "data.cache_dir",
    "data.path",
)
"""Keys that a resumed run may change: none of them alters what was trained so far. The images at another `data.path`
have to be the same."""


@dataclass(frozen=True)
class Run:
    """A run's folder, and what is in it."""

    folder: Path
    trained: nn.Module | None = field(default=None, repr=False)

    def _repr_html_(self) -> str:
        """The run as a notebook shows it: headline, curve and links; of a damaged run, what is wrong with it."""
        try:
            return card(self.folder, explain(self.folder))
        except FedLensError as error:
            return f"<p>{escape(str(error))}</p>"
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return f"<p>{escape(f'{self.folder}: its files do not have the form of a run ({error})')}</p>"

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return load_saved(RunDir.open(self.folder).config)

    @property
    def metrics(self) -> pd.DataFrame:
        """One row a round; nested figures as `test.accuracy`, `clients.accuracy`, `seconds.train`, …"""
        import pandas as pd

        from fedlens.tracking.metrics import read_metrics

        lines = read_metrics(RunDir.open(self.folder).metrics)
        return pd.json_normalize(lines).set_index("round") if lines else pd.DataFrame(index=pd.Index([], name="round"))

    @cached_property
    def model(self) -> nn.Module:
        """The final model, in eval mode, on the CPU. Parts that stay with the clients are as they were before
        training: `model_of`.

        Raises:
            ModelError: the run has not finished, or its module was yours and this is another process.
        """
        if self.trained is not None:
            return self.trained.eval()
        from fedlens.models.artefact import load_model

        model, _ = load_model(RunDir.open(self.folder).model)
        return model

    def model_of(
        self,
        client: str,
        *,
        model: nn.Module | None = None,
        data: Dataset[Any] | Mapping[str, Dataset[Any]] | None = None,
        test: Dataset[Any] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> nn.Module:
        """The model that `client` uses, in eval mode. Your own `model` and `data` have to be given again.

        Raises:
            ModelError: no such client, no finished round, or the clients are on other machines.
        """
        from fedlens.inference.personal import open_personal

        folder = RunDir.open(self.folder)
        given = _given(self.config, model, data, test, class_names)
        return open_personal(folder, client, model=given.model, data=given.data).model

    @property
    def report(self) -> Path:
        """The one-page report."""
        return RunDir.open(self.folder).report


def run(
    config: str | Path | Mapping[str, Any] | Config | None = None,
    *overrides: str,
    model: nn.Module | None = None,
    data: Dataset[Any] | Mapping[str, Dataset[Any]] | None = None,
    test: Dataset[Any] | None = None,
    class_names: Sequence[str] | None = None,
    strategy: Strategy | None = None,
    show: bool | Observer = True,
    trackers: Sequence[Tracker] = (),
) -> Run:
    """Run a federated experiment.

    config       a YAML file, a mapping, or nothing for the defaults; `overrides` are "section.key=value"
    model        your own module (images (B, C, S, S) → logits (B, classes)) in place of the configured model
    data         your own dataset of (image, label), dealt out as data.partition says, or one dataset a client by name
    test         your own global test set
    class_names  names of `data`'s classes, by label; default: the dataset's `classes`, else numbers
    strategy     your own, an object of a frozen dataclass; its fields are kept as configuration keys
    show         progress on the console or in the notebook's cell; False for none, or an observer of your own
    trackers     your own trackers, told of every round

    `model`, `data` and the code of `strategy` are not kept with the run: its configuration says `python` in their
    place.

    Raises:
        FedLensError: what went wrong, and the way out.
    """
    observer = _observer(show)
    resolved = _resolve(
        *(config, overrides, "run", observer.note),
        model=model is not None,
        data=data is not None,
        strategy=strategy,
    )
    given = replace(_given(resolved, model, data, test, class_names), strategy=strategy)
    return _in_new_folder(resolved, lambda folder: _execute(resolved, folder, given, observer, trackers))


def resume(
    folder: str | Path,
    *overrides: str,
    model: nn.Module | None = None,
    data: Dataset[Any] | Mapping[str, Dataset[Any]] | None = None,
    test: Dataset[Any] | None = None,
    class_names: Sequence[str] | None = None,
    strategy: Strategy | None = None,
    show: bool | Observer = True,
    trackers: Sequence[Tracker] = (),
) -> Run:
    """Go on with a run from its last whole checkpoint, as if it had never stopped. Your own `model`, `data` and
    `strategy` have to be given again.

    Raises:
        FedLensError: there is nothing to go on with, or a key may not change any more.
    """
    if strategy is not None:
        keys_of(strategy)
    directory, config = _stopped(folder, overrides, "run")
    if strategy is not None:
        check_same(config, strategy)
    given = replace(_given(config, model, data, test, class_names), strategy=strategy)
    return _execute(config, directory, given, show, trackers)


def serve(
    config: str | Path | Mapping[str, Any] | Config | None = None,
    *overrides: str,
    show: bool | Observer = True,
    trackers: Sequence[Tracker] = (),
) -> Run:
    """Be the server of a federation between machines: wait for clients (`fedlens client`), and train with them.

    Arguments as of `run`. Data that the configuration names is the server's own, for tests; the clients bring theirs.

    Raises:
        FedLensError: what went wrong, and the way out.
    """
    observer = _observer(show)
    resolved = _resolve(config, overrides, "server", observer.note)
    return _in_new_folder(resolved, lambda folder: _serve(resolved, folder, observer, trackers))


def serve_on(
    folder: str | Path, *overrides: str, show: bool | Observer = True, trackers: Sequence[Tracker] = ()
) -> Run:
    """Go on as the server of a run that was stopped, from its last whole checkpoint. Clients come back by themselves.

    Raises:
        FedLensError: there is nothing to go on with, or a key may not change any more.
    """
    directory, config = _stopped(folder, overrides, "server")
    return _serve(config, directory, show, trackers)


def compare(*folders: str | Path) -> pd.DataFrame:
    """A table of runs: `folders` are runs, or folders that hold runs (default: ./logs)."""
    import pandas as pd

    from fedlens.reports.compare import compare_runs

    return pd.DataFrame(compare_runs([Path(folder) for folder in folders or ("logs",)]))


def load_run(folder: str | Path) -> Run:
    """A run that is on disk.

    Raises:
        ConfigError: there is none in `folder`.
    """
    return Run(RunDir.open(Path(folder)).path)


def resolve(config: str | Path | Mapping[str, Any] | Config | None, overrides: Sequence[str] = ()) -> Config:
    """The whole configuration, checked.

    Raises:
        ConfigError: every mistake, a line each.
    """
    return _resolve(config, overrides, None)


def _resolve(
    config: str | Path | Mapping[str, Any] | Config | None,
    overrides: Sequence[str],
    use: Use | None,
    note: Callable[[str], None] = lambda _: None,
    *,
    model: bool = False,
    data: bool = False,
    strategy: Strategy | None = None,
) -> Config:
    """`resolve` for one use; with `model`, `data` or a strategy from Python, these sections say so."""
    given = frozenset([OWN_MODEL] * model + [OWN_DATA] * data)
    extra = config if isinstance(config, Mapping) else None
    arguments = extra if strategy is None else {**(extra or {}), "strategy": keys_of(strategy)}
    if strategy is not None:
        check_alone((*(extra or {}), *overrides))
    below = None if config is None or extra is not None else config if isinstance(config, Config) else Path(str(config))
    resolved = load(below, overrides, arguments, use=use, given=given, note=note)
    families = [MODEL] * model + [SOURCE] * data
    sections = {family.section: _handed_over(family, getattr(resolved, family.section)) for family in families}
    return resolved.model_copy(update=sections)


def _handed_over(family: Family[Any], section: BlockSection) -> BlockSection:
    """`section` without its block, which a Python program has given."""
    own = {key: getattr(section, key) for key in family.own}
    return family.model.model_validate({**own, family.key: PYTHON})


def run_name(config: Config) -> str:
    """How the folder of a run begins: tracking.name, else the algorithm and the model."""
    parts = [*algorithm_parts(config.model_dump(mode="json")), config.model.name]
    return config.tracking.name or "-".join(parts)


def _in_new_folder(config: Config, work: Callable[[RunDir], Run]) -> Run:
    folder = RunDir.create(config.tracking.dir, run_name(config))
    try:
        return work(folder)
    except BaseException:
        if not folder.config.exists():  # it failed before it was a run: nothing to go on with
            shutil.rmtree(folder.path)
        raise


def _stopped(folder: str | Path, overrides: Sequence[str], use: Use) -> tuple[RunDir, Config]:
    fixed = [override for override in overrides if not override.startswith(MAY_CHANGE)]
    if fixed:
        allowed = ", ".join(f"{key}*" if key[-1] in "._" else key for key in MAY_CHANGE)
        raise ConfigError(
            f"{', '.join(fixed)}: a resumed run may change only keys that do not affect the rounds trained so far: "
            f"{allowed}; for anything else start a new run with `fedlens run`",
            code="fixed",
            key=fixed[0].partition("=")[0],
        )
    directory = RunDir.open(Path(folder))
    return directory, load_saved(directory.config, overrides, use=use)


def _given(
    config: Config,
    model: nn.Module | None,
    data: Dataset[Any] | Mapping[str, Dataset[Any]] | None,
    test: Dataset[Any] | None,
    class_names: Sequence[str] | None,
) -> Any:
    from fedlens.build.against_data import check_keys
    from fedlens.build.builders import build_scheme
    from fedlens.data.user import from_datasets
    from fedlens.session.run import UserObjects

    if data is None:
        if test is not None or class_names is not None:
            name, own = ("test", "test images") if test is not None else ("class_names", "class names")
            raise ConfigError(
                f"{name}= needs data=: the configured source brings its own {own}", code="contradiction", key=name
            )
        return UserObjects(model, None)
    section = config.data
    check_keys(config, clients=isinstance(data, Mapping), test=test is not None)
    federated: FederatedData = from_datasets(
        data,
        test,
        scheme=build_scheme(config),
        clients=section.partition.clients or 10,
        validation=section.validation,
        client_test=section.client_test,
        test_fraction=section.test,
        seed=config.seed,
        partition_seed=section.partition.seed,
        class_names=class_names,
    )
    return UserObjects(model, federated.pooled() if section.partition.pooled else federated)


def _execute(config: Config, folder: RunDir, given: Any, show: bool | Observer, trackers: Sequence[Tracker]) -> Run:
    from fedlens.measuring.recovery import execute
    from fedlens.measuring.workers import with_workers
    from fedlens.training.process import keep_kernels

    keep_kernels()
    observer = _observer(show)
    with folder.exclusive_lock(), folder.last_word():
        config = with_workers(config, given, observer)
        return Run(folder.path, execute(config, folder, given, observer, trackers))


def _serve(config: Config, folder: RunDir, show: bool | Observer, trackers: Sequence[Tracker]) -> Run:
    from fedlens.flower.serve import serve as serve_sites

    with folder.exclusive_lock(), folder.last_word():
        return Run(folder.path, serve_sites(config, folder, _observer(show), trackers))


def _observer(show: bool | Observer) -> Observer:
    return screen() if show is True else Silent() if show is False else show
