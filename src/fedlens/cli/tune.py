"""`fedlens tune`: search for good values of keys."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from fedlens.errors import ConfigError, FedLensError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        spaces.check(method)
        if method.lacks:
            typer.echo(
                f"note: {method.name or 'the search'}: without {', '.join(method.lacks)}, which it does not have, or "
                "not with every value of the list"
            )
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
    folder.mkdir(parents=True, exist_ok=True)
    with RunDir(folder).exclusive_lock():
        studies = {method.name: (method, open_study(method, folder, prune)) for method in methods}
        done = {
            trial.user_attrs[LABEL]: f"{percent(trial.value):>7}  {method.told(method.values(trial.params))}"
            for method, study in studies.values()
            for trial in finished(study)
        }
        screen = SweepScreen(rounds | dict.fromkeys(done, 0), done, min(together, len(rounds)), "trial")
        search = Search(studies, trials, samples[0].config.seed, Before(folder), screen)
        try:
            with closing(screen):
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
