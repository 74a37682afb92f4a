"""`fedlens privacy plan` on a terminal."""

import re
import shlex
from itertools import pairwise

import pytest
from tests.commands import command, refused_in_one_line
from tests.docs.snippets import ROOT, blocks

PLAN = "privacy plan privacy.mode=central model.name=lenet federated.num_rounds=40 federated.fraction_fit=0.1"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def said(line: str) -> str:
    result = command(line)
    assert result.exit_code == 0, result.output
    return result.output


def test_tells_cost_noise_and_a_curve_in_80_columns() -> None:
    output = said(f"{PLAN} --clients 1000 privacy.budget=3")
    text = " ".join(output.split())
    assert "central, gaussian noise, poisson sampling" in text
    assert "1,000 may take part, 100 in a round on average" in text
    assert re.search(r"ε = 4\.\d+ at δ = 1e-05 after 40 rounds, by PLD", text)
    assert re.search(r"ε = 3: enough for \d+ of 40 rounds; for all of them use privacy.noise_multiplier=1\.\d+", text)
    assert "2.11 times as long as the mean update can be, over 44,426 shared parameters" in text  # √44,426 / 100
    assert "0.333 times as long as the sum of 40 rounds" in text  # 2.11 / √40
    assert max(map(len, output.splitlines())) <= 80
    assert output.count("█") > 100


def test_warns_of_a_delta_that_says_nothing() -> None:
    assert "privacy.delta = 0.02" in command(f"{PLAN} --clients 50 privacy.delta=0.02").stderr
    assert command(f"{PLAN} --clients 50").stderr == ""


def test_without_noise_there_is_no_curve() -> None:
    output = said(f"{PLAN} --clients 100 privacy.noise_multiplier=0")
    assert "ε = ∞" in output
    assert "█" not in output


def test_bad_input_is_one_line() -> None:
    refused_in_one_line("privacy plan model.name=lenet", "privacy.mode = 'none'", "privacy.mode=central")
    refused_in_one_line(f"{PLAN} --clients 10", "federated.fraction_fit", "1 clients on average")
    refused_in_one_line(f"{PLAN} --clients 100 privacy.budget=0.01", "privacy.budget", "one round alone costs")
    refused_in_one_line(f"{PLAN} privacy.noise=1", "privacy.noise")


def test_the_manual_shows_what_it_prints() -> None:
    """The page's example, without the curve that follows."""
    shown = {
        tuple(asked.commands[0]): printed.body
        for asked, printed in pairwise(blocks(ROOT / "docs" / "privacy.md"))
        if "privacy plan" in asked.body and printed.language == "text"
    }
    ((line, text),) = shown.items()
    assert said(shlex.join(line[1:])).startswith(text)
