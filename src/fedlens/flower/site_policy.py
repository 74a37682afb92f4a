"""A site's own rules: which runs it takes part in, and which of the server's settings it uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedlens.build.load import load
from fedlens.build.privacy import build_claim
from fedlens.config.blocks import PERSONALIZATION, find, frozen_by
from fedlens.config.schema import Config
from fedlens.config.site import SiteConfig
from fedlens.errors import ConfigError
from fedlens.flower.messages import Setup
from fedlens.privacy.ledger import Spent

OWN_TO_THE_SERVER = frozenset({"data", "attack", "clock", "runtime", "stopping", "tracking", "server", "plugins"})
TOLD = tuple(key for key in Config.model_fields if key not in OWN_TO_THE_SERVER)
"""Sections of a server's configuration that sites get. Of `data` they get a part."""


def local_config(setup: Setup, site: SiteConfig) -> Config:
    """The server's configuration as this site uses it: its own paths, device and plugins, and none of the server's.

    Weights come with the first task, so `pretrained` counts only for what never travels: a frozen backbone, and parts
    that a personalisation keeps with the client.

    Raises:
        ConfigError: this FedLens does not know a key or a name in it.
    """
    try:
        told = _told(setup, site)
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"the server's configuration lacks a part, or has it in another form: {error}", code="missing"
        ) from error
    return load(None, (), told)


def _told(setup: Setup, site: SiteConfig) -> dict[str, Any]:
    """The tree of `local_config`."""
    sections = setup.config
    model = {**sections["model"], "weights": None}
    model["num_classes"] = model.get("num_classes") or len(setup.class_names)
    stays = frozen_by(model) is not None or keeps_parts(str(sections["personalization"]["name"]))
    model["pretrained"] = bool(model.get("pretrained")) and stays
    kept = {key: sections["data"][key] for key in ("augment", "validation", "client_test")}
    return {
        **{key: sections[key] for key in TOLD if key != "model"},
        "model": model,
        "data": {**kept, "image_size": setup.image_size, "cache_dir": site.cache_dir},
        "runtime": {"name": "in_process", "device": site.device},
        "plugins": [str(path) for path in site.plugins],
    }


def keeps_parts(personalization: str) -> bool:
    """Whether clients keep parts of the model under that method; an unknown one is refused later, by its name."""
    try:
        return find(PERSONALIZATION, personalization).factory.keeps_parts()
    except ConfigError:
        return False


def refusal(config: Config, site: SiteConfig) -> str | None:
    """Why this site's rules forbid the run; None when they do not."""
    allow = site.allow
    asked: Mapping[str, tuple[str, list[str] | None]] = {
        "strategies": (config.strategy.name, allow.strategies),
        "personalizations": (config.personalization.name, allow.personalizations),
        "models": (config.model.name, allow.models),
    }
    for what, (name, allowed) in asked.items():
        if allowed is not None and name not in allowed:
            return f"this site's allow.{what} is {', '.join(allowed) or 'empty'}, and the run uses {name}"
    epochs = PERSONALIZATION.choose(config.personalization).passes(config.federated.local_epochs)
    passes = "local epochs" if epochs == config.federated.local_epochs else "passes over the images in a round"
    most = {
        "max_local_epochs": (epochs, allow.max_local_epochs, passes),
        "max_rounds": (config.federated.num_rounds, allow.max_rounds, "rounds"),
    }
    for key, (wanted, limit, what) in most.items():
        if limit is not None and wanted > limit:
            return f"this site's allow.{key} is {limit}, and the run asks for {wanted} {what}"
    if allow.secure_aggregation_only and not config.privacy.secure_aggregation:
        return "this site's allow.secure_aggregation_only is true, and the run's updates are not aggregated securely"
    return None if allow.max_epsilon is None else _too_little_privacy(config, allow.max_epsilon, allow.max_delta)


def _too_little_privacy(config: Config, most: float, largest_delta: float) -> str | None:
    """Why the run's claim, counted here, is not enough."""
    begin, claim = f"this site's allow.max_epsilon is {most:g}, and the run", build_claim(config, 0)
    if claim is None:
        return f"{begin} promises no differential privacy"
    if claim.insecure:
        return f"{begin} has a privacy.insecure_seed, from which its noise can be computed"
    if not claim.of_sum and claim.budget is None:  # this site counts, not the server
        return f"{begin} has no privacy.budget: without one this site would do a round as often as it is asked"
    spent = claim.cost(Spent(config.federated.num_rounds)).value
    if claim.budget is not None:  # this site's own ledger stops at the budget alone, whatever the server plans
        spent = min(spent, claim.budget) if claim.of_sum else claim.budget
    if spent > most:
        return f"{begin} may spend ε = {spent:.3g} at δ = {claim.delta:g}"
    if claim.delta > largest_delta:
        return f"{begin} counts it at δ = {claim.delta:g}, and allow.max_delta is {largest_delta:g}"
    return None
