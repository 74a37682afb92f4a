"""What an audit of a run's privacy has found, as text for a terminal and as a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedlens.build.load import load_saved
from fedlens.build.privacy_audit import MOST_DRAWS, Audit, audit
from fedlens.config.blocks import PRIVACY
from fedlens.core.clean import escape
from fedlens.core.words import count
from fedlens.errors import ConfigError
from fedlens.privacy.audit import CONFIDENCE, Examination, Finding
from fedlens.reports.figures.base import COLOURS, Figure, blank
from fedlens.reports.load import load_run
from fedlens.reports.page import page, paragraph, plot, section, table, write_plot
from fedlens.tracking.wording import epsilon

BARS = 60


def audit_run(folder: Path, draws: int, progress: Callable[[int, int], None]) -> Audit:
    """Audit the run in `folder`, finished or not.

    Raises:
        ConfigError: there is no run, or nothing to audit, or so few draws bound nothing.
        FedLensError: one of the run's files is damaged.
    """
    run = load_run(folder)
    config = load_saved(run.folder.config)
    if config.privacy.parameters.get("insecure_seed") is not None:  # every draw would have the same noise
        config = load_saved(run.folder.config, ["privacy.insecure_seed=null"])
    images = _images(run.partition)
    if not run.partition:
        raise ConfigError(
            f"{folder}: this run has not begun, so nobody knows its clients; `fedlens resume {folder}` begins it",
            code="not_found",
            key=str(folder),
        )
    return audit(config, len(images), images, draws, progress)


def _images(partition: Mapping[str, Any]) -> list[int]:
    """Training images of each client of a simulation."""
    return [sum(counts["train"]) for counts in partition.get("clients", {}).values()]


def lines(done: Audit) -> Iterator[tuple[str, str]]:
    """(label, text): what was played, what was claimed, and what was found."""
    mode = PRIVACY.choose(done.config.privacy)
    parts = [getattr(mode, "mechanism", ""), mode.cohorts if done.claim else ""]
    yield "privacy", ", ".join([done.config.privacy.mode, *filter(None, parts)])
    other = "with the opposite update" if mode.opposite else "without"
    yield "played", f"{done.draws:,} times {_played(done)} with a canary, and as often {other}"
    if done.claim is None:
        yield "claimed", "nothing"
        for length, found in done.trials:
            yield f"length {length:g}", _shown(done, found.own)
        yield "verdict", _unclaimed(done)
        return
    ((_, found),) = done.trials
    value = epsilon(found.own.claimed)
    yield "claimed", f"ε ≤ {value} at δ = {done.delta:g} for what was played, by {done.accountant}"
    yield "shown", _shown(done, found.own)
    if found.sharpest.contradicts and not found.own.contradicts:
        yield "", f"{_shown(done, found.sharpest)}, where ε ≤ {epsilon(found.sharpest.claimed)} is claimed"
    if done.claim.mechanism.noise_multiplier:
        yield "half the noise", _power(done)
    yield "verdict", _verdict(found)


def meaning(done: Audit) -> str:
    """What the audit proves, and what it does not."""
    if done.claim is None:
        return (
            "Clipping is what bounds the length of an update: without it one client may have a longer one, and show "
            "through any noise."
        )
    return (
        "Played is the code that draws cohorts, clips, weighs and adds noise, with this run's configuration. A bound "
        "below the claim contradicts nothing; it does not prove the claim. Not tried: the accountant's sum over all "
        "rounds, the strength of the random numbers, and what the run really sent."
    )


def write_audit(done: Audit, path: Path) -> None:
    """Write a self-contained page with what was released in both worlds.

    Raises:
        ConfigError: it cannot be written.
    """
    told = table(("", ""), list(lines(done)))
    caption = "What is released along the canary's direction, in units of its standard deviation without the canary."
    plots = [
        plot(f"Canary of length {length:g}", caption, _histograms(done, found), wide=len(done.trials) == 1)
        for length, found in done.trials
    ]
    text = page(
        "Privacy audit", escape(done.config.privacy.mode), [told, paragraph(meaning(done)), section("Released", *plots)]
    )
    write_plot(text, path)


def _played(done: Audit) -> str:
    steps = getattr(done.claim.mechanism, "steps", 0) if done.claim else 0
    return count(done.rounds, "round") + (f" of {count(steps, 'local step')}" if steps else "")


def _shown(done: Audit, found: Finding) -> str:
    full = found.bound > 0.99 * done.most
    sure = f"the most that {done.draws:,} draws can show" if full else f"with {100 * CONFIDENCE:.0f} % confidence"
    return f"ε ≥ {epsilon(found.bound)} at δ = {found.delta:g}, {sure}"


def _power(done: Audit) -> str:
    needed = done.needed
    if needed is None:
        return f"would not show, even with {MOST_DRAWS:,} draws"
    if needed <= done.draws:
        return "would contradict the claim with these draws"
    return f"would not show with these draws: use --draws {needed}"


def _verdict(found: Examination) -> str:
    if not found.contradicts:
        return "no contradiction"
    finding = found.own if found.own.contradicts else found.sharpest
    return (
        f"CONTRADICTED at δ = {finding.delta:g}: ε is {epsilon(finding.bound)} at least, and "
        f"{epsilon(finding.claimed)} at most was claimed"
    )


def _unclaimed(done: Audit) -> str:
    first, last = done.trials[0][1].own.bound, done.trials[-1][1].own.bound
    if last > first:
        return "no finite ε: what an update shows grows with its length"
    return "no claim to contradict"


def _histograms(done: Audit, found: Examination) -> Figure:
    unit = float(found.absent.std()) or 1.0
    figure = blank("released", "draws")
    opposite = PRIVACY.choose(done.config.privacy).opposite
    names = "with the opposite update" if opposite else "without the canary", "with the canary"
    ends = min(found.absent.min(), found.present.min()) / unit, max(found.absent.max(), found.present.max()) / unit
    bins = {"start": ends[0], "end": ends[1], "size": (ends[1] - ends[0]) / BARS or 1.0}
    for name, values, colour in zip(names, (found.absent, found.present), COLOURS, strict=False):
        figure.add_histogram(x=values / unit, name=name, xbins=bins, marker={"color": colour}, opacity=0.6)
    figure.add_vline(x=found.threshold / unit, line={"dash": "dot", "width": 1.5}, annotation_text="threshold")
    return figure.update_layout(barmode="overlay")
