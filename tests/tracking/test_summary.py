"""What a run is called."""

import pytest

from fedlens.tracking.summary import algorithm_name, algorithm_parts


def block(**sections: str) -> dict[str, dict[str, str]]:
    return {section: {"name": name} for section, name in sections.items()}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (block(strategy="fedavg"), "fedavg"),
        (
            block(strategy="fedavg", personalization="none", aggregation="mean", schedule="sync", attack="none"),
            "fedavg",
        ),
        (block(strategy="scaffold", personalization="fedper"), "scaffold + fedper"),
        (block(strategy="fedavg", aggregation="krum", schedule="fedbuff"), "fedavg + krum + fedbuff"),
        ({}, "–"),
    ],
)
def test_the_name_holds_what_is_not_plain(config, name: str) -> None:
    assert algorithm_name(config) == name
    assert " + ".join(algorithm_parts(config)) == name


def test_an_attack_is_told_with_its_share() -> None:
    config = {**block(strategy="fedavg"), "attack": {"name": "alie", "fraction": 0.125}}
    assert algorithm_name(config) == "fedavg, 12.5 % attack by alie"
    assert algorithm_parts(config) == ["fedavg"]
