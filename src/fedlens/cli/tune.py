"""`fedlens tune`: search for good values of keys."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlens.errors import ConfigError, FedLensError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedlens.config.schema import Config
    from fedlens.sweeps.methods import Method
    from fedlens.sweeps.outcome import Outcome


def tune(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG] [KEY=SEARCH]...",
            help="What to search: optimizer.lr=log:0.001:1 federated.local_epochs=int:1:5 optimizer.momentum=0,0.9; a "
            "single value holds for all trials.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials of each method.")] = 20,
    methods: Annotated[
        list[str] | None,
        typer.Option("--for", metavar="LIST", help="Methods to search for, each with as many trials: KEY=A,B,C"),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="CASE", help='A method that takes several keys: "fedper: personalization.name=fedper"'),
    ] = None,
    name: Annotated[str, typer.Option(help="Folder of the search, inside tracking.dir.")] = "tune",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time; default: as cores, GPUs and memory allow.")
    ] = None,
    prune: Annotated[bool, typer.Option(help="Stop trials that are worse than the median of earlier ones.")] = True,
) -> None:
    """Search for good values with Optuna, by accuracy on the validation images, never by test images. The best values
    of each method are written as a configuration, with a page of what mattered. The same command again goes on."""
    need_optuna()
    from fedlens.cli.run import split_arguments
    from fedlens.sweeps import methods as spaces
    from fedlens.sweeps import points
    from fedlens.sweeps.space import searched

    path, overrides = split_arguments(arguments or [])
    space, fixed = searched(overrides)
    axes, single = points.listed(methods or [])
    if single:
        raise ConfigError(
            f"--for {single[0]}: needs two or more values, such as strategy.name=fedavg,fedprox",
            code="syntax",
            key="--for",
        )
    found = spaces.methods(path, fixed, [*([points.cases(case)] if case else []), *axes], space, name)
    for method in found:
        check(method)
    outcomes = search_all(found, trials, jobs, prune)
    show(outcomes)


def need_optuna() -> None:
    """Raises ConfigError: it is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "fedlens tune needs the extra: pip install 'fedlens[tune]'", code="unavailable", key="tune"
        ) from error


def check(method: Method) -> None:
    """Raises ConfigError: nothing would be validated. Prints which searched keys the method does not have."""
    config = method.make({})
    if not config.data.validation or not config.federated.evaluate_every:
        key = "federated.evaluate_every" if config.data.validation else "data.validation"
        raise ConfigError(
            f"{key} = 0: a search chooses by accuracy on validation images, so there have to be some; "
            f"{key}={'1' if config.data.validation else '0.1'}",
            code="contradiction",
            key=key,
        )
    for name in names_tried(method, config):
        if blind(name):
            raise ConfigError(
                f"personalization.name = {name}: the validation images tell of the shared model, and clients use "
                "models of their own, so a search cannot choose by them. Search with personalization.name=none, or a "
                "method with private parts, such as fedper",
                code="incompatible",
                key="personalization.name",
            )
    if method.lacks:
        typer.echo(
            f"note: {method.name or 'the search'}: without {', '.join(method.lacks)}, which it does not have, or not "
            "with every value of the list"
        )


def names_tried(method: Method, config: Config) -> Sequence[str]:
    """The personalizations of a method's trials."""
    from fedlens.sweeps.space import samples

    searched = method.space.get("personalization.name")
    return samples(searched) if searched is not None else [config.personalization.name]


def blind(name: str) -> bool:
    """Whether clients use models of their own while validation is of the shared one."""
    from fedlens.config.blocks import PERSONALIZATION, find
    from fedlens.personalization.base import Personalization

    factory: Any = find(PERSONALIZATION, name).factory
    return name != "none" and factory.is_private is Personalization.is_private


def search_all(methods: Sequence[Method], trials: int, jobs: int | None, prune: bool) -> list[Outcome]:
    """Do the trials that are left, and write what was found."""
    from fedlens.cli.sweep import Before, Work
    from fedlens.sweeps.methods import open_study
    from fedlens.sweeps.outcome import outcome_of, write_page
    from fedlens.sweeps.points import Point
    from fedlens.sweeps.pool import Pool, at_once, gpus
    from fedlens.sweeps.screen import SweepScreen
    from fedlens.sweeps.search import LABEL, Search, finished, planned
    from fedlens.tracking.run_dir import RunDir
    from fedlens.tracking.summary import percent

    samples = [Point(method.name, method.make({})) for method in methods]
    folder = samples[0].config.tracking.dir
    rounds = {
        method.label(number): sample.config.federated.num_rounds
        for method, sample in zip(methods, samples, strict=True)
        for number in range(1, planned(method, trials) + 1)
    }
    together = jobs or at_once(samples * trials)
    studies = {method.name: (method, open_study(method, folder, prune)) for method in methods}
    done = {
        trial.user_attrs[LABEL]: f"{percent(trial.value):>7}  {method.told(method.values(trial.params))}"
        for method, study in studies.values()
        for trial in finished(study)
    }
    screen = SweepScreen(rounds | dict.fromkeys(done, 0), done, min(together, len(rounds)), "trial")
    search = Search(studies, trials, samples[0].config.seed, Before(folder), screen)
    try:
        with closing(screen), RunDir(folder).exclusive_lock():
            Pool(Work(search.begun), search, together, gpus(samples), search.unwanted).run(search.points())
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command again does the rest.")
        raise
    outcomes = [outcome_of(method, study, folder) for method, study in studies.values()]
    write_page(outcomes, folder)
    return outcomes


def show(outcomes: Sequence[Outcome]) -> None:
    """Print what was found, and what to do with it.

    Raises:
        FedLensError: no trial of a method came to its end.
    """
    import shlex

    from fedlens.cli.compare import show_lines
    from fedlens.sweeps.outcome import HEAD, row

    typer.echo("")
    show_lines([HEAD, *(row(one) for one in outcomes)], names=2)
    found = [one for one in outcomes if one.configuration is not None]
    if found:
        folder = outcomes[0].folder
        typer.echo(f"Page: {folder / 'tune.html'}")
        typer.echo("With seeds that were not searched with:")
        for one in found:
            first = one.method.make({}).seed + 1
            seeds, name = f"seed={first}:{first + 3}", f"{one.method.file}-seeds"
            typer.echo(f"  {shlex.join(['fedlens', 'sweep', str(one.configuration), seeds, '--name', name])}")
    if empty := [one for one in outcomes if one.configuration is None]:
        told = "; ".join(f"{one.method.name or 'the search'}: {one.failure}" for one in empty)
        raise FedLensError(
            f"no trial came to its end of {told}. Mend that, then search again: with another --name, or without "
            f"{outcomes[0].folder}"
        )
