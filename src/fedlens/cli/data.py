"""`fedlens data`: partition images among clients, show the partition, list sources and schemes, and manage the
cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlens.cli.progress import progress_bar

if TYPE_CHECKING:
    from fedlens.config.schema import Config
    from fedlens.core.registry import Registry
    from fedlens.data.cached import CacheEntry
    from fedlens.data.export import Export
    from fedlens.data.show import Holdings
    from fedlens.data.types import ImageTable

app = typer.Typer(
    help="Partition images among clients, and look at who holds what.", no_args_is_help=True, rich_markup_mode=None
)

Out = Annotated[Path, typer.Option(help="folder to write; must be empty or new")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an earlier export in OUT")]
Plugin = Annotated[list[Path] | None, typer.Option(help="Python file with your own sources or schemes")]


@app.command()
def partition(
    out: Out,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="further keys of the source or the scheme: min_size=5"),
    ] = None,
    source: Annotated[str, typer.Option(help="where the images come from; see `fedlens data sources`")] = "auto",
    path: Annotated[Path | None, typer.Option(help="folder or file of the source; without: the sample")] = None,
    scheme: Annotated[str, typer.Option(help="partition scheme; see `fedlens data schemes`")] = "auto",
    clients: Annotated[int | None, typer.Option(help="number of clients (default 10)")] = None,
    alpha: Annotated[float | None, typer.Option(help="dirichlet: small is strong skew")] = None,
    classes_per_client: Annotated[int | None, typer.Option(help="pathological: classes of each client")] = None,
    test: Annotated[float | None, typer.Option(help="share for the global test set (default 0.2)")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of the split (default 0)")] = None,
    link: Annotated[bool, typer.Option("--link", help="hard links instead of copies")] = False,
    overwrite: Overwrite = False,
    plugin: Plugin = None,
) -> None:
    """Partition images into client folders.

    Writes OUT/client1/<class>/…, OUT/client2/<class>/…, and OUT/test.
    """
    from fedlens.data.export import export

    options = {
        "data.source": source,
        "data.path": None if path is None else str(path),
        "data.test": test,
        "data.partition.scheme": scheme,
        "data.partition.clients": clients,
        "data.partition.alpha": alpha,
        "data.partition.classes_per_client": classes_per_client,
        "seed": seed,
        "plugins": [str(file) for file in plugin or []],
    }
    config = _configured({key: value for key, value in options.items() if value is not None}, settings or [])
    table, plan = _wanted(config)
    with progress_bar("decoding images") as progress:
        table = _readable(table, config, progress)
    with progress_bar("writing images") as progress:
        done = export(table, plan, out, link=link, overwrite=overwrite, progress=progress)
    _say(done, out)


@app.command()
def sample(
    out: Out,
    clients: Annotated[int, typer.Option(min=2, help="number of clients, 10 at most")] = 2,
    images: Annotated[int, typer.Option(min=1, help="images of each client")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="which images are drawn")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a part of the sample as client folders.

    Writes OUT/client1/<class>/….png, and OUT/test.
    """
    from fedlens.data.division import DivisionPlan
    from fedlens.data.excerpt import excerpt
    from fedlens.data.export import export
    from fedlens.data.partition.natural import Natural

    table = excerpt(clients, images, seed)
    plan = DivisionPlan(Natural(), clients, 0.0, 0.0, 0.0, seed)
    with progress_bar("writing images") as progress:
        done = export(table, plan, out, overwrite=overwrite, progress=progress)
    _say(done, out)


@app.command()
def show(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH] [KEY=VALUE]...",
            help="data folder, manifest or run folder (latest: the newest run; without: the sample), then keys of how "
            "data is read, as for a run: data.columns.path=filename",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for the pictures; default: that of the run, else this one")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="count files by name; broken ones are counted, too")] = False,
) -> None:
    """Show who holds how many images of what.

    Prints a table, and plots it as PNG and HTML. Images are decoded once, as for a run, to find those that are broken.
    """
    from rich.console import Console

    from fedlens.core.fonts import missing_note
    from fedlens.data.show import table
    from fedlens.reports.partition import write_partition

    run, held = _held(arguments or [], fast)
    for line in held.notes:
        typer.echo(f"note: {line}")
    console = Console(highlight=False)
    console.print(table(held, console.width))
    png, html = write_partition(held, out or run or Path())
    typer.echo(f"{png}\n{html}")
    if note := missing_note((*held.clients, *held.class_names)):
        typer.echo(f"note: {note}", err=True)


def _held(arguments: Sequence[str], fast: bool) -> tuple[Path | None, Holdings]:
    """The run's folder (None where it is no run), and the counts per client and class.

    Raises:
        ConfigError: a key does not belong to the data section.
    """
    from fedlens.build.builders import build_table
    from fedlens.build.load import load
    from fedlens.cli.run import split_arguments
    from fedlens.data.show import of_run, of_table
    from fedlens.errors import ConfigError
    from fedlens.tracking.run_dir import RunDir
    from fedlens.tracking.saved import Partition, read_saved

    path, overrides = split_arguments(arguments)  # for a folder whose name contains "=": data.path=NAME
    if other := [text for text in overrides if not text.startswith("data.")]:
        raise ConfigError(
            f"{other[0]}: data show takes one PATH, and keys of the section data: data.columns.path=NAME",
            code="unknown_key",
            key=other[0].partition("=")[0],
        )
    if path is not None and RunDir(path).is_run:
        if overrides:
            raise ConfigError(
                f"{overrides[0]}: {path} is a run, whose data is divided already; give the data itself",
                code="idle_key",
                key=overrides[0].partition("=")[0],
            )
        if (partition := RunDir(path).partition).exists():
            read_saved(partition, Partition)  # raises the error for a damaged file
        return path, of_run(path)
    config = load(None, overrides, {} if path is None else {"data.path": str(path)})
    table, _ = build_table(config.data)
    if not fast:
        with progress_bar("decoding images") as progress:
            table = _readable(table, config, progress)
    return None, of_table(table)


@app.command("sources")
def list_sources(plugin: Plugin = None) -> None:
    """List the data sources and what each is for."""
    from fedlens.data.base import sources

    _list(sources, plugin, "fedlens run data.source=")


@app.command("schemes")
def list_schemes(plugin: Plugin = None) -> None:
    """List the partition schemes and what each is for."""
    from fedlens.data.base import schemes

    _list(schemes, plugin, "fedlens run data.partition.scheme=")


@app.command()
def cache(
    folder: Annotated[Path | None, typer.Argument(help="cache folder; without: the user's")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="remove everything; downloads, too")] = False,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="remove what was not used for so many days")
    ] = None,
) -> None:
    """List what the cache holds, or remove it.

    Everything in it can be made or downloaded again.
    """
    from rich.filesize import decimal

    from fedlens.data.cache import A_DAY
    from fedlens.data.cache_dir import default_cache_dir
    from fedlens.data.cached import contents

    place = folder or default_cache_dir()
    entries = contents(place)
    if older_than is not None:
        entries = [entry for entry in entries if entry.used < time.time() - older_than * A_DAY]
    removing = clear or older_than is not None
    if removing:
        for entry in entries:
            entry.remove()
    elif entries:
        _print_entries(entries)
    count = f"{len(entries):,} {'entry' if len(entries) == 1 else 'entries'}"
    typer.echo(f"{place}: {'removed ' * removing}{count}, {decimal(sum(entry.size for entry in entries))}")


def _print_entries(entries: Sequence[CacheEntry]) -> None:
    from rich.filesize import decimal

    from fedlens.cli.compare import columns

    rows = [
        (one.kind, decimal(one.size), f"{datetime.fromtimestamp(one.used):%Y-%m-%d %H:%M}", one.about)
        for one in entries
    ]
    for line in columns([("kind", "size", "last use", "of"), *rows], "<"):
        typer.echo(line.rstrip())


def _list(registry: Registry[Any], plugin: Sequence[Path] | None, choose: str) -> None:
    from fedlens.config.plugins import load_plugins

    load_plugins(plugin or [])
    entries = registry.entries()
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        typer.echo(f"{entry.name:{width}}  {entry.summary}")
        for name, node in entry.properties.items():
            typer.echo(f"{'':{width}}    {name}={node.get('default', '…')}")
    typer.echo(f"\nChoose one: {choose}{entries[0].name}")


def _configured(options: dict[str, Any], settings: Sequence[str]) -> Config:
    """The data section that the command line describes; mistakes are reported as for a configuration file."""
    from fedlens.build.load import load
    from fedlens.config.blocks import SOURCE, field_names, find
    from fedlens.config.plugins import load_plugins
    from fedlens.data.detect import detect

    load_plugins([Path(file) for file in options["plugins"]])
    if options["data.source"] == "auto":
        options["data.source"] = detect(Path(options["data.path"]) if "data.path" in options else None)
    of_source = field_names(find(SOURCE, options["data.source"]))
    overrides = [f"data.{'' if text.split('=')[0] in of_source else 'partition.'}{text}" for text in settings]
    return load(None, overrides, options)


def _wanted(config: Config) -> tuple[ImageTable, Any]:
    """The table, and the division plan."""
    from fedlens.build.builders import division_plan
    from fedlens.config.blocks import SOURCE

    section = config.data
    plan = replace(division_plan(config), validation=0.0, client_test=0.0)
    return SOURCE.choose(section).load(), plan


def _readable(table: ImageTable, config: Config, progress: Callable[[int, int], None]) -> ImageTable:
    """`table` without the images that a run would skip."""
    from fedlens.build.builders import decoding
    from fedlens.data.readable import readable

    return readable(table, decoding(config, table), progress)


def _say(done: Export, out: Path) -> None:
    from fedlens.core.words import count
    from fedlens.data.tree import MANIFEST_FILE

    for note in done.notes:
        typer.echo(f"Note: {note}")
    test = f", {done.folders['test']:,} for the test" if "test" in done.folders else ""
    clients = {name: rows for name, rows in done.folders.items() if name != "test"}
    held = count(sum(clients.values()), "row" if done.only_manifest else "image")
    typer.echo(f"{out}: {count(len(clients), 'client')} with {held}{test}")
    data = out / MANIFEST_FILE if done.only_manifest else out
    typer.echo(f"Look:  fedlens data show {data}\nTrain: fedlens run data.path={data}")
