"""`site.yaml`: the settings of a site's administrator, which apply before any server's requests."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from fedlens.config import problems
from fedlens.config.keys import properties, text_key
from fedlens.config.overrides import Layer, file_layer, merge, override_layer
from fedlens.config.schema import AnyPath
from fedlens.core import clean
from fedlens.core.limits import ClientsOrNone, Number, Times, Workers
from fedlens.core.machine import state_home
from fedlens.core.section import Section
from fedlens.errors import ConfigError, Problem

Name = Annotated[str, Field(max_length=clean.LONGEST_NAME, pattern=clean.NAME, examples=["clinic-4"])]
"""Folders are named after it, too."""


class AllowSection(Section):
    """What a server may request of this site; without limits: everything that FedLens itself can do."""

    strategies: list[str] | None = Field(None, description="names that `fedlens strategies` lists; default: all")
    personalizations: list[str] | None = Field(None, description="names of personalization.name; default: all")
    models: list[str] | None = Field(None, description="names that `fedlens models` lists; default: all")
    max_local_epochs: Times | None = Field(None, description="most passes over the images in a round")
    max_rounds: Times | None = Field(None, description="longest run, in rounds")
    max_message_mb: Number = Field(2000, description="largest message, in 10⁶ bytes")
    min_images: Number | None = Field(
        None, description="take part only with at least so many training images: an update over few says more of each"
    )
    secure_aggregation_only: bool = Field(
        False, description="take part only in runs whose server sees the sum of the sites' updates, and no update"
    )
    cross_site: bool = Field(
        False,
        description="take part in cross-site evaluation: this site's model goes to the others, and theirs are tried on "
        "its test images",
    )
    max_epsilon: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="least privacy: the largest ε that a run with differential privacy may spend, counted here from "
        "its configuration; a run without it is refused",
    )
    max_delta: Annotated[float, Field(gt=0, lt=1)] = Field(
        1e-5, description="with max_epsilon: the largest δ at which ε may be counted; near 1, any noise has a small ε"
    )


class SiteConfig(Section):
    """One site. Options of `fedlens client` override it."""

    server_address: str = Field("127.0.0.1:8080", description="host:port of the server; 0.0.0.0 means this machine")
    data_dir: AnyPath = Field(description="this site's images: class folders, or a .csv or .parquet manifest")
    source: str = Field("auto", description="a name that `fedlens data sources` lists; auto: what data_dir holds")
    partition_id: ClientsOrNone = Field(0, description="number of this site in the federation")
    name: Name | None = Field(None, description="name of this site; default: client<partition_id + 1>")
    certs: AnyPath | None = Field(None, description="this site's folder of `fedlens certs`: ca.crt and client.key")
    peers: AnyPath | None = Field(
        None,
        description="file with the lines of all sites' client.pub: secure aggregation with these sites alone, by their "
        "signatures; default: with all that the server names",
    )
    insecure: bool = Field(False, description="join another machine without TLS; for closed networks and tests only")
    state_dir: AnyPath | None = Field(None, description="what the site keeps: private layers, journal, outbox")
    cache_dir: AnyPath | None = Field(None, description="decoded images; default: the user's cache folder")
    on_bad_image: Literal["skip", "fail"] = Field("skip", description="an image that cannot be decoded")
    max_pixels: Number = Field(
        100_000_000, description="an image of more is read in a reduced size where it is JPEG, else not at all"
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="auto, cpu, cuda, cuda:<n> or mps",
        examples=["auto", "cpu", "cuda", "cuda:1", "mps"],
    )
    threads: Workers | None = Field(None, description="PyTorch threads; default: the cores")
    stay: bool = Field(False, description="when a run is over, wait for the next")
    plugins: list[AnyPath] = Field(default_factory=list, description="Python files of this site with blocks of its own")
    allow: AllowSection = Field(default_factory=AllowSection)

    @property
    def client(self) -> str:
        """The stable name of the partition."""
        return self.name or f"client{self.partition_id + 1}"

    @property
    def state(self) -> Path:
        """`state_dir`, or a folder for this client inside the user's state folder."""
        return self.state_dir.expanduser() if self.state_dir else state_home() / self.client


def load_site(path: Path | None, overrides: list[str]) -> SiteConfig:
    """Load `path` (YAML), overridden by `key=value` texts.

    Raises:
        ConfigError: one line for each mistake.
    """
    mistakes: list[Problem] = []
    layer = file_layer(path) if path is not None else Layer()
    layer = merge(layer, override_layer(overrides, mistakes, partial(text_key, SiteConfig)), {})
    if layer.tree.get("allow", ...) is None:  # a section without content
        del layer.tree["allow"]
    try:
        site = SiteConfig.model_validate(layer.tree)
    except ValidationError as error:
        found = dict.fromkeys(_problem(detail, layer) for detail in error.errors(include_url=False))
        raise ConfigError(*mistakes, *found) from error
    for model, section, values in ((SiteConfig, "", layer.tree), (AllowSection, "allow", layer.tree.get("allow", {}))):
        mistakes.extend(problems.truth_values(properties(model), values, section, layer.where).values())
    if mistakes:
        raise ConfigError(*mistakes)
    return site


def _problem(detail: ErrorDetails, layer: Layer) -> Problem:
    first, *below = map(str, detail["loc"])
    model, name = (AllowSection, below[0]) if first == "allow" and below else (SiteConfig, first)
    key = name if model is SiteConfig else f"allow.{name}"
    code = problems.code_of(detail["type"])
    if code == "missing":
        line = f"{key} is missing: --{key} FOLDER, or {key}: in site.yaml"
        return Problem(code, key, line)
    if code == "unknown_key":
        everywhere = [*SiteConfig.model_fields, *(f"allow.{field}" for field in AllowSection.model_fields)]
        text = problems.unknown_key(key, list(model.model_fields), everywhere)
        return problems.problem(code, key, text, where=layer.where(key))
    permitted = clean.NAME_RULE if key == "name" else problems.allowed(properties(model)[name], detail["input"])
    text = problems.said(detail["msg"]) if detail["type"] == "value_error" else f"must be {permitted}"
    return problems.problem(code, key, text, detail["input"], layer.where(key))
