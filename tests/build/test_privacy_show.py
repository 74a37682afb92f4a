"""What others see of a client, from a configuration: messages, pictures, and the page."""

from __future__ import annotations

import re

import pytest

from fedlens.build.load import load
from fedlens.build.privacy_show import Shown, settled, shown
from fedlens.errors import ConfigError, DataError
from fedlens.privacy.inversion import Inversion
from fedlens.reports.privacy_show import lines, render

TITLES = (
    "no protection",
    "central: the server sees",
    "local",
    "add_dp_noise, 0.001",
    "add_dp_noise, 0.01",
    "add_dp_noise, 0.01, a lying server",
    "secure aggregation: one client",
    "secure aggregation: the sum",
)


def attacked(*overrides: str, images: int = 1, steps: int = 1) -> Shown:
    config = load(None, ["model.name=lenet", *overrides])
    return shown(config, images, Inversion(steps), lambda _label: lambda _done, _all: None)


@pytest.fixture(scope="module")
def without_a_mode() -> Shown:
    return attacked("optimizer.lr=0.1", images=2)


def test_noise_hides_an_update_and_neither_clipping_nor_a_lie_does(without_a_mode: Shown) -> None:
    cosine = {view.title: view.cosine for view in without_a_mode.views}
    assert tuple(cosine) == TITLES
    assert cosine["no protection"] == pytest.approx(1, abs=1e-5)
    assert cosine["central: the server sees"] == pytest.approx(1, abs=1e-5)
    assert abs(cosine["local"]) < 0.05
    assert abs(cosine["add_dp_noise, 0.01"]) < 0.2 < cosine["add_dp_noise, 0.001"]
    assert cosine["add_dp_noise, 0.01, a lying server"] > 0.99
    assert abs(cosine["secure aggregation: one client"]) < 0.05
    assert 0.2 < cosine["secure aggregation: the sum"] < 0.99  # one of four clients


def test_the_page_holds_its_pictures_and_nothing_from_elsewhere(without_a_mode: Shown) -> None:
    text = render(without_a_mode)
    assert text.count("data:image/png;base64,") == 2 * (1 + len(TITLES))
    assert not re.findall(r"https?://|<script", text)
    assert len(list(lines(without_a_mode))) == 1 + len(TITLES)


def test_labels_are_read(without_a_mode: Shown) -> None:
    assert without_a_mode.read_labels
    assert sorted(without_a_mode.views[0].labels) == sorted(without_a_mode.labels)
    assert not attacked("personalization.name=fedper").read_labels  # the head stays with the client


def test_a_configured_mode_is_shown() -> None:
    views = {view.title: view for view in attacked("privacy.mode=central", "privacy.noise_multiplier=0").views}
    assert list(views)[1:3] == ["central: the server sees", "central: all others see"]
    mean, opened = views["central: all others see"], views["secure aggregation: the sum"]
    assert mean.cosine == pytest.approx(opened.cosine, abs=1e-5)  # without noise it is the sum of the same updates


def test_shared_noise_is_in_the_sum_that_the_server_opens() -> None:
    shared = ("privacy.mode=central", "privacy.secure_aggregation=true", "privacy.noise_multiplier=9")
    views = {view.title: view for view in attacked(*shared).views}
    assert list(views) == ["no protection", "secure aggregation: one client", "secure aggregation: the sum"]
    assert abs(views["secure aggregation: the sum"].cosine) < 0.05
    assert "shares of noise to it, of 9\u00a0×\u00a0clip at least" in views["secure aggregation: the sum"].told


@pytest.mark.slow
def test_training_with_noise_is_shown() -> None:
    view = attacked("privacy.mode=example", "privacy.noise_multiplier=0").views[1]
    assert (view.title, view.cosine) == ("example", pytest.approx(1, abs=1e-4))


def test_the_noise_is_that_of_the_whole_run() -> None:
    """Of 20 rounds in which each of two groups takes part ten times, not of the one round that is shown."""
    config = load(
        None,
        ["privacy.mode=central", "privacy.target_epsilon=4", "federated.fraction_fit=0.5", "privacy.sampling=cyclic"],
    )
    mode = settled(config, [100] * 10)
    assert mode.noise_multiplier > 2
    assert mode.target_epsilon is None
    first = settled(load(None, ["privacy.mode=central", "privacy.clip=adaptive"]), [100] * 40)
    assert first.clip == 0.1


def test_attacks_repeat() -> None:
    first, second = (attacked(steps=2).views[5].found.pictures for _ in range(2))
    assert first.equal(second)


def test_what_cannot_be_attacked() -> None:
    with pytest.raises(ConfigError, match=r"personalization\.name = 'local': shares nothing"):
        attacked("personalization.name=local")
    with pytest.raises(DataError, match=r"--images 8: the largest client has \d training images; use --images \d"):
        attacked("data.partition.scheme=iid", "data.partition.clients=1000", images=8)
